"""Embeddings whose gradients are summed in float32, and their regulariser."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.compositional_embedding import CompositionalEmbedding


@keras.saving.register_keras_serializable("mim")
class DotL2(keras.regularizers.L2):
    """`keras.regularizers.L2` as an inner product, which XLA on CPUs computes several times faster than a sum of
    squares.

    Args:
        l2: Factor.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.embedding import DotL2
        >>> float(DotL2(0.5)(np.array([[1.0, 2.0]])))
        2.5
    """

    def __call__(self, x: Any) -> Any:
        flat = ops.reshape(x, (-1,))
        return self.l2 * ops.dot(flat, flat)


@keras.saving.register_keras_serializable("mim")
class TableNormal(keras.initializers.RandomNormal):
    """`keras.initializers.RandomNormal` of the same values, in two thirds of the memory on TensorFlow: a graph frees
    what it computes on the way, which for a table of ten million rows is the largest amount of a training.

    Example:
        >>> from mim_keras.layers.embedding import TableNormal
        >>> TableNormal(stddev=0.05)((3, 2)).shape
        TensorShape([3, 2])
    """

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        if keras.backend.backend() != "tensorflow":
            return super().__call__(shape, dtype)
        import tensorflow as tf

        return tf.function(lambda: keras.initializers.RandomNormal.__call__(self, shape, dtype))()


def float32_embedding(rows: int, dim: int, name: str, initializer: str | None = None, l2: float = 0.0) -> keras.Layer:
    """A `keras.layers.Embedding` that computes in float32 under every dtype policy; cast its output.

    A row may occur thousands of times in a batch.  Their sum in bfloat16 stops growing after a few
    hundred, and accelerators, which have no atomic bfloat16 addition, sum them one after the other.

    Args:
        rows: Number of rows.
        dim: Width.
        name: Of the layer.
        initializer: Of the rows; None for a normal distribution with a standard deviation of .05.
        l2: L2 regularisation.
    """
    return keras.layers.Embedding(
        rows,
        dim,
        embeddings_initializer=initializer or TableNormal(stddev=0.05),
        embeddings_regularizer=DotL2(l2) if l2 else None,
        dtype="float32",
        name=name,
    )


def float32_compositional(rows: int, dim: int, name: str, small: tuple[Any, int], l2: float = 0.0) -> keras.Layer:
    """As `float32_embedding`, a `CompositionalEmbedding` of this method and these rows of a table."""
    method, small_rows = small
    return CompositionalEmbedding(
        rows,
        dim,
        small_rows,
        method,
        embeddings_initializer=TableNormal(stddev=0.05 / 2**0.5),  # of a sum of two
        embeddings_regularizer=DotL2(l2) if l2 else None,
        dtype="float32",
        name=name,
    )
