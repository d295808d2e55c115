"""Cross-replica negatives: the items of the pairs of all replicas."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.layers.base import TracedSpec, check_rank
from mim_keras.layers.negatives.in_batch import Negatives
from mim_keras.ops.distribution import all_gather


@keras.saving.register_keras_serializable("mim")
class CrossReplicaNegatives(TracedSpec, keras.layers.Layer):
    """The items of the pairs of all replicas, shared by all queries; gradients reach the replica they come from.

    Call arguments:
        embedding: Item embeddings of this replica, float [B, d].
        item_row: int [B].

    Returns:
        `Negatives` [replicas · B, d].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.negatives import CrossReplicaNegatives
        >>> CrossReplicaNegatives()(np.eye(3, dtype="float32"), item_row=np.array([4, 5, 6])).item_row.shape
        TensorShape([3])

    Source: space negatives of MIM (2502.00321); SimCLR (2002.05709).
    """

    def build(self, embedding_shape: Any, item_row_shape: Any) -> None:
        check_rank(self, "embedding", embedding_shape, "batch dim")
        check_rank(self, "item_row", item_row_shape, "batch")

    def call(self, embedding: Any, item_row: Any) -> Negatives:
        return Negatives(all_gather(embedding), all_gather(item_row))

    def compute_output_shape(self, embedding_shape: Any, item_row_shape: Any) -> Negatives:
        return Negatives((None, *embedding_shape[1:]), (None,))
