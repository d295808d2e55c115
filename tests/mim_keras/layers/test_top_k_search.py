"""The search finds the most similar behaviours, whatever is masked."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_keras.layers import TopKSearch
from mim_keras.layers.top_k_search import gather_behaviours
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import MASK, SIMILARITY

pytestmark = pytest.mark.any_backend
B, L, D = 3, 7, 6


def test_the_most_similar_in_order_of_time() -> None:
    indices = numbers(TopKSearch(2)(SIMILARITY, history_mask=MASK))
    assert indices.tolist()[0] == sorted(np.argsort(-SIMILARITY[0])[:2])
    assert indices.tolist()[1] == [0, 1], "behaviours before masked positions, however similar these are"
    assert not MASK[2][indices[2]].any()
    assert TopKSearch(9)(SIMILARITY, history_mask=MASK).shape == SIMILARITY.shape
    with pytest.raises(ValueError, match=r"k must be at least 1; received 0\."):
        TopKSearch(0)


@pytest.mark.parametrize("k", [2, 4, 9])
def test_the_length_may_be_unknown(k: int) -> None:
    length = None if keras.backend.backend() == "tensorflow" else L  # JAX has no unknown lengths
    similarity, mask = keras.Input((length,), name="similarity"), keras.Input((length,), dtype="bool", name="mask")
    layer = TopKSearch(k)
    model = keras.Model([similarity, mask], layer(similarity, history_mask=mask))
    found = model.predict_on_batch([SIMILARITY, MASK])
    np.testing.assert_array_equal(found, numbers(layer(SIMILARITY, history_mask=MASK)))


@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_property(seed: int, k: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.permuted(np.linspace(-0.1, 0.1, B * L).astype("float32")).reshape(B, L)
    mask = rng.random((B, L)) < rng.random()
    indices = numbers(TopKSearch(k)(similarity, history_mask=mask))
    assert indices.shape == (B, min(k, L))
    assert (np.diff(indices, axis=1) > 0).all()
    for row, own in enumerate(indices):
        behaviours = np.flatnonzero(mask[row])
        nearest = behaviours[np.argsort(-similarity[row, behaviours])][:k]
        assert set(nearest.tolist()) <= set(own.tolist())
        assert mask[row, own].sum() == len(nearest)
    scaled = numbers(TopKSearch(k)(similarity * np.float32(scale), history_mask=mask))
    np.testing.assert_array_equal(scaled, indices)
    values = rng.normal(size=(B, L, D)).astype("float32")
    taken = np.take_along_axis(values, indices[..., None], axis=1)
    np.testing.assert_array_equal(numbers(gather_behaviours(values, indices)), taken)
    np.testing.assert_array_equal(numbers(gather_behaviours(values[:1], indices)), values[0][indices])
    np.testing.assert_array_equal(numbers(gather_behaviours(mask, indices)), np.take_along_axis(mask, indices, 1))
