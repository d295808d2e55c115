"""The queue keeps the latest, in order, over its edge."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import NegativeQueue
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def test_it_keeps_the_latest() -> None:
    queue = NegativeQueue(5, 2)
    assert not numbers(queue.item_rows).any()
    for start in (1, 4, 7):
        rows = np.arange(start, start + 3)
        queue.enqueue(np.stack([rows, -rows], 1).astype("float32"), rows)
    found = queue(np.zeros((1, 2), "float32"))
    # of 1..9 the last five are left, each in the slot of its number modulo five
    np.testing.assert_array_equal(numbers(found.item_row), [6, 7, 8, 9, 5])
    np.testing.assert_array_equal(numbers(found.embedding)[:, 0], [6, 7, 8, 9, 5])
    assert int(numbers(queue.cursor)) == 4


def test_a_batch_must_fit() -> None:
    with pytest.raises(ValueError, match=r"received a batch of 3 for size=2\. Raise csft\.queue_size"):
        NegativeQueue(2, 4).enqueue(np.zeros((3, 4), "float32"), np.arange(3))
