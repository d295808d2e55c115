"""Time negatives: vectors of earlier batches, first in, first out."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

EMPTY = -1


@keras.saving.register_keras_serializable("mim")
class NegativeQueue(keras.layers.Layer):
    """A ring of the latest `size` vectors and the rows of the items they belong to.

    Args:
        size: How many vectors are kept.
        dim: Their length.

    `push(vectors [B, dim], rows int [B])` overwrites the oldest; gradients do not flow into the queue.
    `vectors` is [size, dim]; `rows` is int32 [size], `EMPTY` where nothing was pushed yet.

    Source: memory of earlier batches as in MoCo (1911.05722) and cross-batch memory (1912.06798).
    """

    def __init__(self, size: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.dim = size, dim

    def build(self, input_shape: Any = None) -> None:
        # Every replica pushes what all replicas hold, into a copy of its own: the copies stay equal without a word.
        options = {"trainable": False, "aggregation": "only_first_replica", "synchronization": "on_read"}
        empty = keras.initializers.Constant(EMPTY)
        self.vectors = keras.Variable("zeros", (self.size, self.dim), name="vectors", **options)
        self.rows = keras.Variable(empty, (self.size,), dtype="int32", name="rows", **options)
        self.next = keras.Variable("zeros", (), dtype="int32", name="next", **options)

    def push(self, vectors: Any, rows: Any) -> None:
        batch = ops.shape(vectors)[0]
        places = (self.next + ops.arange(batch, dtype="int32")) % self.size
        places = ops.expand_dims(places, 1)
        vectors = ops.cast(ops.stop_gradient(vectors), self.vectors.dtype)
        self.vectors.assign(ops.scatter_update(self.vectors, places, vectors))
        self.rows.assign(ops.scatter_update(self.rows, places, ops.cast(rows, "int32")))
        self.next.assign((self.next + batch) % self.size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "dim": self.dim}
