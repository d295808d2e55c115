"""Cosine similarities in the learned space, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import LearnedSimilarity
from mim_keras.layers.learned_similarity import SHARPNESS
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def embed(layer: LearnedSimilarity, values: np.ndarray) -> np.ndarray:
    embedded = numbers(layer.output_layer(layer.hidden(values.reshape(-1, values.shape[-1])))).astype(np.float64)
    unit: np.ndarray = (embedded / np.linalg.norm(embedded, axis=1, keepdims=True)).reshape(*values.shape[:-1], -1)
    return unit


@pytest.mark.parametrize("histories", [4, 1])
def test_features_equal_numpy(rng: np.random.Generator, histories: int) -> None:
    target = rng.normal(size=(4, 5)).astype("float32")
    behaviours = rng.normal(size=(histories, 7, 5)).astype("float32")
    mask = np.arange(7)[None, :] < np.array([[3], [7], [1], [0]])[:histories]
    layer = LearnedSimilarity(6)
    found = numbers(layer(target, behaviours, history_mask=mask))
    one, many = embed(layer, target), embed(layer, behaviours)
    for row in range(4):
        own = many[row % histories][mask[row % histories]]
        if not len(own):
            np.testing.assert_array_equal(found[row], 0)
            continue
        cosine = own @ one[row]
        weight = np.exp(SHARPNESS * cosine) / np.exp(SHARPNESS * cosine).sum()
        expected = [cosine.max(), cosine.mean(), *(one[row] * (weight @ own))]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_a_history_of_length_zero_gives_zeros() -> None:
    layer = LearnedSimilarity(4)
    layer(np.ones((2, 3), "float32"), np.ones((2, 5, 3), "float32"))
    found = numbers(layer(np.ones((2, 3), "float32"), np.ones((2, 0, 3), "float32")))
    np.testing.assert_array_equal(found, np.zeros((2, 6)))
