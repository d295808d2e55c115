"""Who stands against whom at one step of contrastive training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from keras import ops

from mim_keras.contrast.items_of_keys import ABSENT
from mim_keras.contrast.negative_queue import EMPTY, NegativeQueue
from mim_keras.contrast.space import gather_from_replicas


class Candidates:
    """The candidates that all queries of a step share, by pool; what several terms use is made once.

    Args:
        query_rows: Items of the queries, int [B, L]; `ABSENT` where there are fewer.
        item_row: The items, int [B].
        key: Of the queries, int [B]; pairs of one key share their positives.
        items: Each view of the items, [B, d].
        queues: Time negatives, by view.
        table_rows: How many rows there are; all above are smaller.
        positives: Gives the known positives of keys; see `positives_of`.  Without, they are those of this step.
    """

    def __init__(
        self,
        query_rows: Any,
        item_row: Any,
        key: Any,
        items: Mapping[str, Any],
        queues: Mapping[str, NegativeQueue],
        table_rows: int,
        positives: Callable[[Any], Any] | None = None,
    ) -> None:
        self._positives = positives
        self._query_rows, self._key, self._queues, self._table_rows = query_rows, key, queues, table_rows
        self._near = {"row": item_row, "key": key, **items}
        # Remembered, so that every term asks the other replicas but once.
        self._everywhere: Callable[[str], Any] = cache(lambda name: gather_from_replicas(self._near[name]))
        self.unfair: Callable[[tuple[str, ...]], Any] = cache(self._unfair)

    def everywhere(self, name: str) -> Any:
        """`row` and `key` of the pairs of all replicas, or a view of their items."""
        return self._everywhere(name)

    def vectors(self, view: str, pools: tuple[str, ...]) -> Any:
        """[N, d]; none of them passes a gradient where it comes from the queue."""
        parts = [self._of_step(view, pools)] if {"batch", "space"} & set(pools) else []
        if "time" in pools:
            parts.append(ops.cast(ops.convert_to_tensor(self._queues[view].vectors), self._near[view].dtype))
        return ops.concatenate(parts, axis=0)

    def rows(self, pools: tuple[str, ...]) -> Any:
        """Rows of the table, int [N]; `EMPTY` for a place of the queue that nothing was pushed into."""
        parts = [self._of_step("row", pools)] if {"batch", "space"} & set(pools) else []
        if "time" in pools:
            parts.append(ops.convert_to_tensor(next(iter(self._queues.values())).rows))
        return ops.concatenate(parts, axis=0)

    def _of_step(self, name: str, pools: tuple[str, ...]) -> Any:
        return self.everywhere(name) if "space" in pools else self._near[name]

    def _unfair(self, pools: tuple[str, ...]) -> Any:
        """True where a candidate of these pools is no negative of a query, bool [B, N].

        That is: an item of the query; a positive of its key, as far as they are known, or else the item of any pair of
        this step with the same key; or an empty place.
        """
        pairs = None
        own = self._query_rows
        if self._positives is None:
            pairs = (self._key, self._of_step("row", pools), self._of_step("key", pools))
        else:
            own = ops.concatenate([own, self._positives(self._key)], axis=1)
        return unfair(own, self.rows(pools), self._table_rows, pairs)


def positives_of(offsets: Any, rows: Any, most: int) -> Callable[[Any], Any]:
    """What gives the known positives of keys, int [B] → int [B, most], `ABSENT` where there are fewer; of tensors as
    `ItemsOfKeys` has them."""

    def look_up(key: Any) -> Any:
        begin, end = ops.take(offsets, key), ops.take(offsets, key + 1)
        place = begin[:, None] + ops.arange(most, dtype="int32")
        found = ops.take(rows, ops.minimum(place, rows.shape[0] - 1))
        return ops.where(place < end[:, None], found, ABSENT)

    return look_up


def unfair(own_rows: Any, candidate_rows: Any, table_rows: int, pairs: tuple[Any, Any, Any] | None = None) -> Any:
    """True where a candidate is no negative of a query, bool [B, N]; see `Candidates`.

    Every candidate is named by the first place it stands at, and what each query must not be held against is marked
    in a table of these names: less work than to compare every candidate with all items of every history.

    Args:
        own_rows: What each query must not be held against, int [B, L]; `ABSENT` where there is less.
        candidate_rows: int [N]; `EMPTY` for an empty place.
        table_rows: All rows are smaller.
        pairs: Keys of the queries, int [B], and items and keys of all pairs of this step, int [P] each: the items of
            a query's key are none of its negatives either.
    """
    batch, length = own_rows.shape
    batch = ops.shape(own_rows)[0] if batch is None else batch
    count = ops.shape(candidate_rows)[0]
    nowhere = count  # the last column takes what is no candidate

    def name_of(rows: Any) -> Any:
        return ops.where(rows < 0, nowhere, ops.take(names, ops.maximum(rows, 0)))

    places = ops.where(candidate_rows == EMPTY, table_rows, candidate_rows)
    names = ops.full((table_rows + 1,), nowhere, dtype="int32")
    names = ops.scatter_update(names, places[:, None], ops.arange(count, dtype="int32"))
    # by query: what is its own
    line = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, length))
    at = ops.stack([ops.reshape(line, (-1,)), ops.reshape(name_of(own_rows), (-1,))], axis=1)
    marked = ops.scatter_update(ops.zeros((batch, count + 1), "int32"), at, ops.ones((batch * length,), "int32"))
    if pairs is not None:  # by key, which is named by the first pair that has it: the items of its pairs
        key, pair_rows, pair_keys = pairs
        first = ops.argmax(ops.cast(pair_keys[:, None] == pair_keys[None, :], "int32"), axis=1)
        at = ops.stack([ops.cast(first, "int32"), name_of(pair_rows)], axis=1)
        total = ops.shape(pair_rows)[0]
        shared = ops.scatter_update(ops.zeros((total, count + 1), "int32"), at, ops.ones((total,), "int32"))
        mine = ops.argmax(ops.cast(key[:, None] == pair_keys[None, :], "int32"), axis=1)
        marked = marked + ops.take(shared, mine, axis=0)  # (B, N + 1)
    columns = ops.where(candidate_rows == EMPTY, nowhere, name_of(candidate_rows))
    return (ops.take(marked, columns, axis=1) > 0) | (candidate_rows == EMPTY)[None, :]
