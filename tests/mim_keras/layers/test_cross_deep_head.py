"""The head against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import CrossDeepHead
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import uniform

pytestmark = pytest.mark.any_backend


def test_against_numpy() -> None:
    x, layer = uniform(3, 6), CrossDeepHead(1, (5,), projection_dim=4)
    layer(x)
    cross, dense = layer.crosses[0], layer.denses[0]
    dense.bias.assign(np.linspace(-1, 1, 5))
    down, up = numbers(cross.down_proj_dense.kernel), numbers(cross.dense.kernel)
    crossed = x * (x @ down @ up + numbers(cross.dense.bias)) + x
    deep = np.maximum(x @ numbers(dense.kernel) + numbers(dense.bias), 0)
    expected = np.concatenate([crossed, deep], axis=1) @ numbers(layer.logit.kernel) + numbers(layer.logit.bias)
    np.testing.assert_allclose(numbers(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_without_cross_layers_the_features_stay_and_dropout_is_for_training() -> None:
    x, layer = uniform(3, 6), CrossDeepHead(0, (50,), dropout=0.5)
    first = numbers(layer(x))
    np.testing.assert_array_equal(numbers(layer(x)), first)
    assert layer.logit.kernel.shape[0] == 56
    assert not np.allclose(numbers(layer(x, training=True)), first)
