"""Rows asked for a thousand times learn from all of them, in half precision too."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.embedding_table import EmbeddingTable, rows_of
from tests.mim_keras.backend import gradients, numbers
from tests.mim_keras.layer_harness import HALVES, half_precision

pytestmark = [pytest.mark.any_backend, pytest.mark.parametrize("kind", HALVES)]
TIMES = 4099  # no number of either half; added in halves, ones come to 256 or 2048
ASKED = np.array([[2] * TIMES, [0] * TIMES], "int32")


def test_a_row_asked_for_often_has_the_sum_of_all_gradients(kind: str) -> None:
    with half_precision(kind):
        table = EmbeddingTable(3, 2)
        table.build()
        assert keras.backend.standardize_dtype(table(ASKED).dtype) == kind
        (found,) = gradients(table, lambda: keras.ops.sum(keras.ops.cast(table(ASKED), "float32")))
    np.testing.assert_array_equal(found, [[TIMES] * 2, [0] * 2, [TIMES] * 2])


def test_rows_of_learned_values_are_added_up_before_they_are_rounded(kind: str) -> None:
    layer = keras.layers.Dense(2, use_bias=False, dtype=f"mixed_{kind}")
    layer.build((3, 3))

    def loss() -> object:
        values = layer(keras.ops.eye(3))
        assert keras.backend.standardize_dtype(values.dtype) == kind
        found = rows_of(values, ASKED)
        assert keras.backend.standardize_dtype(found.dtype) == kind
        return keras.ops.sum(keras.ops.cast(found, "float32"))

    (found,) = gradients(layer, loss)
    rounded = numbers(keras.ops.cast(keras.ops.cast(float(TIMES), kind), "float32"))
    np.testing.assert_array_equal(found, [[rounded] * 2, [0] * 2, [rounded] * 2])
