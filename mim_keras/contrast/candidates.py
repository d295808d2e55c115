"""Who stands against whom at one step of contrastive training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from keras import ops

from mim_keras.contrast.negative_queue import EMPTY, NegativeQueue
from mim_keras.contrast.space import gather_from_replicas

ABSENT = -1  # stands where a pair has fewer query items or hard negatives than others


class Candidates:
    """The candidates that all queries of a step share, by pool; what several terms use is made once.

    Args:
        query_rows: Items of the queries, int [B, L]; `ABSENT` where there are fewer.
        item_row: The items, int [B].
        key: Of the queries, int [B]; pairs of one key share their positives.
        items: Each view of the items, [B, d].
        queues: Time negatives, by view.
        table_rows: How many rows there are; all above are smaller.
    """

    def __init__(
        self,
        query_rows: Any,
        item_row: Any,
        key: Any,
        items: Mapping[str, Any],
        queues: Mapping[str, NegativeQueue],
        table_rows: int,
    ) -> None:
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

        That is: an item of the query, or the item of any pair of this step with the same key (its own among them), or
        an empty place.
        """
        return unfair(
            self._query_rows,
            self._key,
            self.rows(pools),
            self._of_step("row", pools),
            self._of_step("key", pools),
            self._table_rows,
        )


def unfair(query_rows: Any, key: Any, candidate_rows: Any, pair_rows: Any, pair_keys: Any, table_rows: int) -> Any:
    """True where a candidate is no negative of a query, bool [B, N]; see `Candidates`.

    Every candidate is named by the first place it stands at, and what each query must not be held against is marked
    in a table of these names: less work than to compare every candidate with all items of every history.

    Args:
        query_rows: int [B, L]; `ABSENT` where there are fewer.
        key: int [B].
        candidate_rows: int [N]; `EMPTY` for an empty place.
        pair_rows, pair_keys: Items and keys of all pairs of this step, int [P].
        table_rows: All rows are smaller.
    """
    batch, length = query_rows.shape
    batch = ops.shape(query_rows)[0] if batch is None else batch
    count, pairs = ops.shape(candidate_rows)[0], ops.shape(pair_rows)[0]
    nowhere = count  # the last column takes what is no candidate

    def name_of(rows: Any) -> Any:
        return ops.where(rows < 0, nowhere, ops.take(names, ops.maximum(rows, 0)))

    places = ops.where(candidate_rows == EMPTY, table_rows, candidate_rows)
    names = ops.full((table_rows + 1,), nowhere, dtype="int32")
    names = ops.scatter_update(names, places[:, None], ops.arange(count, dtype="int32"))
    # by pair: the items of its query
    line = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, length))
    at = ops.stack([ops.reshape(line, (-1,)), ops.reshape(name_of(query_rows), (-1,))], axis=1)
    own = ops.scatter_update(ops.zeros((batch, count + 1), "int32"), at, ops.ones((batch * length,), "int32"))
    # by key, which is named by the first pair that has it: the items of its pairs
    first = ops.argmax(ops.cast(pair_keys[:, None] == pair_keys[None, :], "int32"), axis=1)
    at = ops.stack([ops.cast(first, "int32"), name_of(pair_rows)], axis=1)
    shared = ops.scatter_update(ops.zeros((pairs, count + 1), "int32"), at, ops.ones((pairs,), "int32"))
    mine = ops.argmax(ops.cast(key[:, None] == pair_keys[None, :], "int32"), axis=1)
    marked = own + ops.take(shared, mine, axis=0)  # (B, N + 1)
    columns = ops.where(candidate_rows == EMPTY, nowhere, name_of(candidate_rows))
    return (ops.take(marked, columns, axis=1) > 0) | (candidate_rows == EMPTY)[None, :]
