"""Hard negatives: items that a pair names itself."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import TracedSpec, check_rank
from mim_keras.layers.negatives.in_batch import Negatives


@keras.saving.register_keras_serializable("mim")
class HardNegatives(TracedSpec, keras.layers.Layer):
    """K items of each query's own: seen and not clicked, clicked and not ordered, of the same category.

    Call arguments:
        embedding: float [B, K, d].
        item_row: int [B, K]; 0 where a pair has fewer.
        positive_row: The item of each pair, int [B].
        query_rows: Items of each query, int [B, L]; 0 where it has fewer.

    Returns:
        `Negatives` [B, K, d]; rows that are padding, the pair's own item or an item of its query are 0.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.negatives import HardNegatives
        >>> negatives = HardNegatives()(
        ...     embedding=np.ones((1, 3, 2), "float32"),
        ...     item_row=np.array([[4, 5, 6]]),
        ...     positive_row=np.array([5]),
        ...     query_rows=np.array([[6]]),
        ... )
        >>> negatives.item_row.numpy().tolist()
        [[4, 0, 0]]
    """

    def build(self, embedding_shape: Any, item_row_shape: Any, positive_row_shape: Any, query_rows_shape: Any) -> None:
        check_rank(self, "embedding", embedding_shape, "batch negatives dim")
        check_rank(self, "item_row", item_row_shape, "batch negatives")

    def call(self, embedding: Any, item_row: Any, positive_row: Any, query_rows: Any) -> Negatives:
        is_positive = ops.equal(item_row, positive_row[:, None])
        is_query = ops.any(ops.equal(item_row[..., None], query_rows[:, None, :]), axis=-1)
        rows = ops.where(ops.logical_or(is_positive, is_query), ops.zeros_like(item_row), item_row)
        return Negatives(embedding, rows)

    def compute_output_shape(
        self, embedding_shape: Any, item_row_shape: Any, positive_row_shape: Any, query_rows_shape: Any
    ) -> Negatives:
        return Negatives(tuple(embedding_shape), tuple(item_row_shape))
