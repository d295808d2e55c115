"""The positives of each key, which are not its negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from mim_keras.layers.base import PADDING_ROW


@dataclass(frozen=True)
class KnownPositives:
    """Items that each key (a user, a query) led to, in compressed sparse rows.

    Attributes:
        row_splits: int32 [keys + 1]: key k has `values[row_splits[k]:row_splits[k + 1]]`.
        values: Item rows, int32 [n]; each once a key.
    """

    row_splits: np.ndarray
    values: np.ndarray

    @classmethod
    def from_pairs(cls, key: np.ndarray, item_row: np.ndarray) -> KnownPositives:
        """From n pairs of a key, 0 or more, and an item row, 1 or more; int [n] each.

        Raises:
            ValueError: there is no pair, the lengths differ, or a key or a row is out of range.

        Example:
            >>> import numpy as np
            >>> from mim_keras.layers import KnownPositives
            >>> positives = KnownPositives.from_pairs(np.array([0, 1, 1]), np.array([4, 6, 5]))
            >>> positives.contains(np.array([1]), np.array([[5, 4]])).tolist()
            [[True, False]]
        """
        key, item_row = np.asarray(key), np.asarray(item_row)
        if key.shape != item_row.shape or key.ndim != 1:
            raise ValueError(
                f"key and item_row must have one length; received shapes {key.shape} and {item_row.shape}. Give one of "
                "each for every pair."
            )
        if not len(key) or key.min() < 0 or item_row.min() < 1:
            received = (int(key.min()), int(item_row.min())) if len(key) else "no pair"
            raise ValueError(
                f"known positives have keys of 0 or more and rows of 1 or more; received minima {received}. "
                "Drop pairs without a key or an item."
            )
        pairs = np.unique(np.stack([key, item_row], axis=1).astype(np.int64), axis=0)
        row_splits = np.searchsorted(pairs[:, 0], np.arange(int(key.max()) + 2))
        return cls(row_splits.astype(np.int32), pairs[:, 1].astype(np.int32))

    @property
    def max_per_key(self) -> int:
        """Most items of a key."""
        return int(np.diff(self.row_splits).max())

    def sample(self, key: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most `count` distinct items of each key, [n] → int32 [n, min(count, max_per_key)].

        0 after the last where a key has fewer, or is unknown.  Of a key with more, consecutive ones from a random
        start.
        """
        width = min(count, self.max_per_key)
        known = np.clip(key, 0, len(self.row_splits) - 2)
        first = self.row_splits[known]
        size = np.where(key == known, np.diff(self.row_splits)[known], 0)[:, None]
        start = (rng.random((len(key), 1)) * size).astype(np.int64)
        index = first[:, None] + (start + np.arange(width)) % np.maximum(size, 1)
        rows = self.values[np.minimum(index, len(self.values) - 1)]
        return np.where(np.arange(width) < size, rows, PADDING_ROW).astype(np.int32)

    def contains(self, key: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether each key, [n], has each of its rows, [n, K]: bool [n, K]; padding never."""
        stride = np.int64(max(int(self.values.max()), int(rows.max(initial=0))) + 1)
        owner = np.repeat(np.arange(len(self.row_splits) - 1), np.diff(self.row_splits))
        return np.isin(key[:, None] * stride + rows, owner * stride + self.values) & (rows != PADDING_ROW)


def lookup_positives(row_splits: Any, values: Any, key: Any, max_positives: int) -> Any:
    """The known positives of keys, int [B] → [B, max_positives]; 0 where a key has fewer.

    Args:
        row_splits, values: Of `KnownPositives`, as tensors.
        key: int [B].
        max_positives: Columns, `KnownPositives.max_per_key`.
    """
    known = ops.clip(key, 0, row_splits.shape[0] - 2)
    begin = ops.take(row_splits, known)
    end = ops.where(ops.equal(known, key), ops.take(row_splits, known + 1), begin)  # an unknown key has none
    index = begin[:, None] + ops.arange(max_positives, dtype="int32")
    rows = ops.take(values, ops.minimum(index, values.shape[0] - 1))
    return ops.where(index < end[:, None], rows, PADDING_ROW)
