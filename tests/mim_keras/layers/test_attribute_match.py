"""Attributes of target and history, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import AttributeEmbedding, AttributeMatch
from mim_keras.layers.attribute_embedding import ONE_HOT_SIZE
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend
SLOTS = (1, 3)


def codes_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Codes of two attributes, of one value and of up to three, 0 where there is none."""
    one = rng.integers(0, 3, (*shape, 1))
    several = rng.permuted(np.broadcast_to(np.array([0, 0, 3, 4, 5, 6]), (*shape, 6)), axis=-1)[..., :3]
    return np.concatenate([one, several], axis=-1)


@pytest.mark.parametrize("histories", [6, 1])
def test_shares_and_counts_equal_loops(rng: np.random.Generator, histories: int) -> None:
    target, history = codes_of(rng, 6), codes_of(rng, histories, 9)
    mask = np.arange(9)[None, :] < rng.integers(0, 10, (histories, 1))
    found = numbers(AttributeMatch(SLOTS)(target, history, history_mask=mask))
    for row in range(6):
        own = history[row % histories][mask[row % histories]]
        for index, part in enumerate((slice(0, 1), slice(1, 4))):
            wanted = set(target[row, part]) - {0}
            count = sum(bool(wanted & set(behaviour[part])) for behaviour in own)
            np.testing.assert_allclose(found[row, index], count / max(len(own), 1), atol=1e-6)
            np.testing.assert_allclose(found[row, 2 + index], np.log1p(count), atol=1e-6)


@pytest.mark.parametrize("values", [7, ONE_HOT_SIZE])
def test_the_embeddings_of_an_items_values_are_summed(rng: np.random.Generator, values: int) -> None:
    codes, layer = codes_of(rng, 5), AttributeEmbedding(values, 4)
    found, table = numbers(layer(codes)), numbers(layer.embeddings)
    np.testing.assert_allclose(
        found, [sum(table[code] for code in own if code) + np.zeros(4) for own in codes], atol=1e-6
    )


@pytest.mark.parametrize("num_values", [8, ONE_HOT_SIZE + 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_codes_out_of_range_are_no_value_under_every_policy(num_values: int, dtype: str) -> None:
    layer = AttributeEmbedding(num_values, 2, dtype=dtype)
    found = numbers(layer(np.array([[1, 0], [1, -1], [1, num_values], [1, 3]]))).astype("float32")
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    assert np.any(found[3] != found[0])


def test_slots_are_checked() -> None:
    with pytest.raises(ValueError, match="`target` must have 4 slots, those of all attributes; received 5"):
        AttributeMatch(SLOTS)(np.zeros((2, 5), int), np.zeros((2, 3, 4), int))
    with pytest.raises(ValueError, match="`history` must have 4 slots, those of all attributes; received 2"):
        AttributeMatch(SLOTS)(np.zeros((2, 4), int), np.zeros((2, 3, 2), int))
