"""In-batch negatives: all items of the batch; `false_negative_mask` masks a query's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from mim_keras.layers.base import TracedSpec, check_rank


class Negatives(NamedTuple):
    """Candidates of one pool.

    Attributes:
        embedding: [N, d] where all queries share them, [B, K, d] where each query has its own.
        item_row: Which items they are, int [N] or [B, K]; 0 is padding.
    """

    embedding: Any
    item_row: Any


@keras.saving.register_keras_serializable("mim")
class InBatchNegatives(TracedSpec, keras.layers.Layer):
    """The items of all pairs of the batch, shared by all queries.

    Call arguments:
        embedding: Item embeddings, float [B, d].
        item_row: int [B].

    Returns:
        `Negatives` [B, d].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.negatives import InBatchNegatives
        >>> InBatchNegatives()(np.eye(3, dtype="float32"), item_row=np.array([4, 5, 6])).embedding.shape
        TensorShape([3, 3])
    """

    def build(self, embedding_shape: Any, item_row_shape: Any) -> None:
        check_rank(self, "embedding", embedding_shape, "batch dim")
        check_rank(self, "item_row", item_row_shape, "batch")

    def call(self, embedding: Any, item_row: Any) -> Negatives:
        return Negatives(embedding, item_row)

    def compute_output_shape(self, embedding_shape: Any, item_row_shape: Any) -> Negatives:
        return Negatives(tuple(embedding_shape), tuple(item_row_shape))
