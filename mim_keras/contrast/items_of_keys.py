"""Which items each key led to: what is known to be liked, say, so that none of it stands as a negative."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABSENT = -1  # stands where a key has fewer items than others


@dataclass(frozen=True)
class ItemsOfKeys:
    """The items of pairs, by key: each once, key after key.

    Attributes:
        offsets: Where each key's items begin and the last one's end, int32 [keys + 1].
        rows: Rows of the content table, int32 [n].
    """

    offsets: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, key: np.ndarray, item_row: np.ndarray) -> ItemsOfKeys:
        """Of pairs that say which key, 0.., led to which item; int [n] each.

        Raises:
            ValueError: there is no pair, or a key or a row is negative.
        """
        if not len(key) or key.min() < 0 or item_row.min() < 0:
            least = (int(key.min()), int(item_row.min())) if len(key) else "no pair"
            raise ValueError(
                f"items of keys are of pairs whose keys and rows are 0 or more; received {least}. Leave others out."
            )
        pairs = np.unique(np.stack([key, item_row], axis=1).astype(np.int64), axis=0)
        offsets = np.searchsorted(pairs[:, 0], np.arange(int(key.max()) + 2))
        return cls(offsets.astype(np.int32), pairs[:, 1].astype(np.int32))

    @property
    def most(self) -> int:
        """How many items the key has that has most."""
        return int(np.diff(self.offsets).max())

    def some_of(self, key: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
        """Of each key, [n], at most `most` of its items, each once: int32 [n, min(most, self.most)].

        `ABSENT` after the last where a key has fewer, or none.  Of a key that has more, a run of them that begins
        anywhere.
        """
        width = min(most, self.most)
        own = np.minimum(key, len(self.offsets) - 2)
        first, size = self.offsets[own], np.where(key == own, np.diff(self.offsets)[own], 0)[:, None]
        begin = (rng.random((len(key), 1)) * size).astype(np.int64)
        place = first[:, None] + (begin + np.arange(width)) % np.maximum(size, 1)
        found = self.rows[np.minimum(place, len(self.rows) - 1)]
        return np.where(np.arange(width) < size, found, ABSENT).astype(np.int32)

    def holds(self, key: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether each key, [n], has each of its rows, [n, K], among its items: bool [n, K]."""
        width = np.int64(max(int(self.rows.max()), int(rows.max(initial=0))) + 1)
        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return np.isin(key[:, None] * width + rows, owner * width + self.rows) & (rows >= 0)
