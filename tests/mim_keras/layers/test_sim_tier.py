"""SimTier by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import SimTier
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def test_by_hand() -> None:
    similarity = np.array([[-1.0, -0.95, 0.05, 0.99, 1.0, 0.5]], "float32")
    mask = np.array([[1, 1, 1, 1, 1, 0]], bool)
    layer = SimTier(20)
    output = numbers(layer(similarity, similarity_mask=mask))[0]
    expected = np.zeros(20)
    expected[0] = np.log(3)  # -1.0 and -0.95
    expected[10] = np.log(2)  # 0.05
    expected[19] = np.log(3)  # 0.99, and 1.0 in the last bin
    np.testing.assert_allclose(output, expected, rtol=1e-6)
    layer.bin_weights.assign(np.arange(20))
    np.testing.assert_allclose(numbers(layer(similarity, similarity_mask=mask))[0], expected * np.arange(20), rtol=1e-6)
