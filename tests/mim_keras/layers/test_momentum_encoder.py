"""The moving average by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.layers import MomentumEncoder
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def test_weights_are_averaged_and_the_encoder_stays() -> None:
    encoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    layer, one = MomentumEncoder(encoder, 0.9), np.ones((1, 1), "float32")
    for value, expected in ((0.0, 0.9), (0.0, 0.81), (2.0, 0.9 * 0.81 + 0.2)):
        encoder.set_weights([np.full((1, 1), value), np.zeros(1)])
        layer.update()
        assert float(numbers(layer(one))[0, 0]) == pytest.approx(expected, rel=1e-5)
        assert float(numbers(encoder(one))[0, 0]) == value
    assert not layer.trainable_variables
    with pytest.raises(ValueError, match=r"momentum is in \[0, 1\); received 1\.0"):
        MomentumEncoder(encoder, 1.0)
