"""Queue negatives: embeddings of earlier batches, first in, first out."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import Configurable, TracedSpec
from mim_keras.layers.negatives.in_batch import Negatives


@keras.saving.register_keras_serializable("mim")
class NegativeQueue(TracedSpec, Configurable, keras.layers.Layer):
    """A ring buffer of the latest `size` embeddings and their item rows.

    `enqueue(embedding [B, dim], item_row [B])` overwrites the oldest; no gradient flows into the queue.

    Args:
        size: Embeddings that are kept, at least the global batch.
        dim: Their width.

    Call arguments:
        embedding: Of the current batch, float [B, dim]; only its dtype is used.

    Returns:
        `Negatives` [size, dim]; rows are 0 where nothing was enqueued yet.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.negatives import NegativeQueue
        >>> queue = NegativeQueue(3, 2)
        >>> queue.enqueue(np.ones((2, 2), "float32"), np.array([7, 8]))
        >>> queue(np.zeros((2, 2), "float32")).item_row.numpy().tolist()
        [7, 8, 0]

    Source: time negatives of MIM (2502.00321); MoCo (1911.05722); cross-batch memory (1912.06798).
    """

    config_names = ("size", "dim")

    def __init__(self, size: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.dim = size, dim
        # Every replica enqueues the items of all replicas into its own copy, so that the copies stay equal.
        options = {"trainable": False, "aggregation": "only_first_replica", "synchronization": "on_read"}
        self.embeddings = keras.Variable("zeros", (size, dim), name="embeddings", **options)
        self.item_rows = keras.Variable("zeros", (size,), dtype="int32", name="item_rows", **options)
        self.cursor = keras.Variable("zeros", (), dtype="int32", name="cursor", **options)
        self.build((None, dim))

    def build(self, embedding_shape: Any) -> None:
        """The constructor makes all variables."""

    def enqueue(self, embedding: Any, item_row: Any) -> None:
        """Takes in the items of a batch.

        Raises:
            ValueError: the batch is larger than the queue, so that it would overwrite itself.
        """
        batch = ops.shape(embedding)[0]
        if isinstance(batch, int) and batch > self.size:
            raise ValueError(
                f"a NegativeQueue holds at least the global batch; received a batch of {batch} for size={self.size}. "
                "Raise csft.queue_size, or lower the batch size."
            )
        slots = ops.expand_dims((self.cursor + ops.arange(batch, dtype="int32")) % self.size, 1)
        embedding = ops.cast(ops.stop_gradient(embedding), self.embeddings.dtype)
        self.embeddings.assign(ops.scatter_update(self.embeddings, slots, embedding))
        self.item_rows.assign(ops.scatter_update(self.item_rows, slots, ops.cast(item_row, "int32")))
        self.cursor.assign((self.cursor + batch) % self.size)

    def call(self, embedding: Any) -> Negatives:
        return Negatives(
            ops.cast(ops.convert_to_tensor(self.embeddings), embedding.dtype), ops.convert_to_tensor(self.item_rows)
        )

    def compute_output_shape(self, embedding_shape: Any) -> Negatives:
        return Negatives((self.size, self.dim), (self.size,))
