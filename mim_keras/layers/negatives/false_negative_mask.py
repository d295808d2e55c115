"""Which candidates are not negatives of a query."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from mim_keras.layers.base import PADDING_ROW


class StepPairs(NamedTuple):
    """Items and keys of the pairs of one step, which imply positives.

    Attributes:
        query_key: Keys of the queries, int [B].
        item_row: Items of all pairs of the step, int [P].
        key: Keys of all pairs of the step, int [P].
    """

    query_key: Any
    item_row: Any
    key: Any


def false_negative_mask(
    positive_rows: Any, candidate_rows: Any, num_rows: int, step_pairs: StepPairs | None = None
) -> Any:
    """True where a shared candidate is not a negative of a query: bool [B, N].

    That is an item of the query, a known positive of its key, or padding.

    Every candidate is named by one column that holds its item, and the positives of each query are marked in a table
    of these columns.  This is less work than comparing each candidate with every item of every history.

    Args:
        positive_rows: What each query must not be contrasted with, int [B, L]; 0 is padding.
        candidate_rows: int [N]; 0 is padding, such as a free slot of a queue.
        num_rows: All rows are smaller.
        step_pairs: Pairs of this step: the items of a query's key are not its negatives either.  None where
            `positive_rows` holds all known positives.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import false_negative_mask
        >>> false_negative_mask(np.array([[3, 0], [4, 5]]), np.array([3, 4, 0]), num_rows=6).numpy().tolist()
        [[True, False, True], [False, True, True]]
    """
    batch, length = positive_rows.shape
    batch = ops.shape(positive_rows)[0] if batch is None else batch
    count = ops.shape(candidate_rows)[0]
    padding_column = count  # the last column takes rows that are no candidate
    candidate_rows = ops.cast(candidate_rows, "int32")
    column_of_row = ops.full((num_rows,), padding_column, dtype="int32")
    column_of_row = ops.scatter_update(column_of_row, candidate_rows[:, None], ops.arange(count, dtype="int32"))

    def columns_of(rows: Any) -> Any:
        return ops.where(rows == PADDING_ROW, padding_column, ops.take(column_of_row, rows))

    batch_index = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, length))
    indices = ops.stack([ops.reshape(batch_index, (-1,)), ops.reshape(columns_of(positive_rows), (-1,))], axis=1)
    ones = ops.ones((batch * length,), "int32")
    is_positive = ops.scatter_update(ops.zeros((batch, count + 1), "int32"), indices, ones)
    if step_pairs is not None:  # a key is named by the first pair that has it
        key, pair_rows, pair_keys = step_pairs
        same_key = ops.cast(pair_keys[:, None] == pair_keys[None, :], "int32")
        first_pair = ops.cast(ops.argmax(same_key, axis=1), "int32")
        indices = ops.stack([first_pair, columns_of(pair_rows)], axis=1)
        total = ops.shape(pair_rows)[0]
        of_key = ops.scatter_update(ops.zeros((total, count + 1), "int32"), indices, ops.ones((total,), "int32"))
        first_pair_of_query = ops.argmax(ops.cast(key[:, None] == pair_keys[None, :], "int32"), axis=1)
        is_positive = is_positive + ops.take(of_key, first_pair_of_query, axis=0)  # (B, N + 1)
    is_padding = candidate_rows == PADDING_ROW
    return ops.logical_or(ops.take(is_positive, columns_of(candidate_rows), axis=1) > 0, is_padding[None, :])
