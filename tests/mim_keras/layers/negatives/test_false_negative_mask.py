"""Which candidates are no negatives, by hand and against every comparison."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers.negatives import HardNegatives, KnownPositives, StepPairs, false_negative_mask
from mim_keras.layers.negatives.known_positives import lookup_positives
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import HARD

pytestmark = pytest.mark.any_backend


def test_by_hand() -> None:
    query_rows, item_row, key = np.array([[7], [7], [8]]), np.array([1, 2, 1]), np.array([4, 4, 5])
    candidates = np.array([1, 2, 1, 0, 7, 9])
    found = numbers(false_negative_mask(query_rows, candidates, 20, StepPairs(key, item_row, key)))
    # query 7 led to 1 and 2; query 8 led to 1; 7 is a candidate itself; the fourth slot is empty
    expected = [
        [True, True, True, True, True, False],
        [True, True, True, True, True, False],
        [True, False, True, True, False, False],
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("known", [True, False])
def test_many_against_every_comparison(rng: np.random.Generator, known: bool) -> None:
    batch, slots, rows = 40, 60, 25
    query_rows = rng.integers(0, rows, (batch, 5))
    item_row, key = rng.integers(1, rows, batch), rng.integers(0, 12, batch)
    candidates = rng.integers(0, rows, slots)
    positive_rows, pairs = query_rows, StepPairs(key, item_row, key)
    if known:  # the items of the query are masked beside them
        positives = KnownPositives.from_pairs(key, item_row)
        found = lookup_positives(positives.row_splits, positives.values, key, positives.max_per_key)
        positive_rows, pairs = np.concatenate([query_rows, numbers(found)], axis=1), None
    found = numbers(false_negative_mask(positive_rows, candidates, rows, pairs))
    for b in range(batch):
        own = {*query_rows[b], *item_row[key == key[b]], 0}
        np.testing.assert_array_equal(found[b], [row in own for row in candidates])


def test_the_positives_of_each_key(rng: np.random.Generator) -> None:
    key, item_row = rng.integers(0, 9, 70), rng.integers(1, 30, 70)
    item_row[1], key[1] = item_row[0], key[0]  # the same pair twice
    key[key == 4] = 5  # a key without any
    known = KnownPositives.from_pairs(key, item_row)
    assert known.values.shape == (len({*zip(key.tolist(), item_row.tolist(), strict=True)}),)
    found = numbers(lookup_positives(known.row_splits, known.values, np.arange(9), known.max_per_key))
    asked = rng.integers(0, 40, (9, 6))
    contains = known.contains(np.arange(9), asked)
    sample = known.sample(np.arange(11), 2, rng)
    for one in range(9):
        own = {*item_row[key == one].tolist()}
        assert found[one][found[one] != 0].tolist() == sorted(own)
        assert contains[one].tolist() == [row in own for row in asked[one]]
        taken = sample[one][sample[one] != 0].tolist()
        assert len({*taken}) == len(taken) == min(2, len(own))
        assert {*taken} <= own
    assert not sample[9:].any()
    with pytest.raises(ValueError, match=r"keys of 0 or more and rows of 1 or more; received minima \(-1, 3\)"):
        KnownPositives.from_pairs(np.array([-1]), np.array([3]))
    with pytest.raises(ValueError, match=r"received minima \(0, 0\)"):
        KnownPositives.from_pairs(np.array([0]), np.array([0]))


def test_a_hard_negative_is_neither_the_positive_nor_an_item_of_the_query() -> None:
    found = numbers(HardNegatives()(**HARD).item_row)
    np.testing.assert_array_equal(found, [[4, 0], [6, 0], [8, 0]])
