"""Rows that occur thousands of times in a batch are trained by all of them, in half precision too."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.layers.embedding import float32_embedding
from mim_keras.ops.fused_attention import gather_float32
from tests.mim_keras.backend import HALVES, gradients, half_precision, numbers

pytestmark = [pytest.mark.any_backend, pytest.mark.parametrize("kind", HALVES)]
TIMES = 4099  # no number of either half; a sum of ones in half precision stops at 256 or 2048
INDICES = np.array([[2] * TIMES, [0] * TIMES], "int32")


def test_a_row_has_the_sum_of_all_gradients(kind: str) -> None:
    with half_precision(kind):
        table = float32_embedding(3, 2, "table")
        table.build((None,))
        (found,) = gradients(table, lambda: keras.ops.sum(keras.ops.cast(table(INDICES), kind)))
    np.testing.assert_array_equal(found, [[TIMES] * 2, [0] * 2, [TIMES] * 2])


def test_gradients_of_gathered_values_are_summed_before_they_are_rounded(kind: str) -> None:
    layer = keras.layers.Dense(2, use_bias=False, dtype=f"mixed_{kind}")
    layer.build((3, 3))

    def loss() -> object:
        values = layer(keras.ops.eye(3))
        assert keras.backend.standardize_dtype(values.dtype) == kind
        found = gather_float32(values, INDICES)
        assert keras.backend.standardize_dtype(found.dtype) == kind
        return keras.ops.sum(keras.ops.cast(found, "float32"))

    (found,) = gradients(layer, loss)
    rounded = numbers(keras.ops.cast(keras.ops.cast(float(TIMES), kind), "float32"))
    np.testing.assert_array_equal(found, [[rounded] * 2, [0] * 2, [rounded] * 2])
