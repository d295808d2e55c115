"""Colours are counted, alone or beside convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers.towers import ColorHistogram, ImageTower
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def test_by_hand(rng: np.random.Generator) -> None:
    images = np.zeros((4, 48, 48, 3), "float32")
    images[0, :24] = [1, 0, 0]  # red and black, half and half
    images[1] = [1, 0, 0]
    images[2] = [0, 0, 1]
    images[3] = rng.uniform(size=(48, 48, 3))
    found = numbers(ColorHistogram()(images))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:3] @ found[:3].T, [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 1]], atol=1e-5)
    alone, beside = (ImageTower(48, filters, color_histogram=True) for filters in ((), (4, 8)))
    np.testing.assert_allclose(numbers(alone(images)), found, atol=1e-6)
    np.testing.assert_allclose(numbers(beside(images))[:, 16:], found, atol=1e-6)
    assert (alone.feature_groups, beside.feature_groups) == ([96], [16, 96])
    with pytest.raises(ValueError, match="needs filters, a backbone or color_histogram; received none"):
        ImageTower(48)
