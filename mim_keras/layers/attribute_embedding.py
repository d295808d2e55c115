"""Embeddings of the attributes of items: a sum over the values that an item has."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import Configurable

NO_VALUE = 0  # code of an attribute that an item lacks
ONE_HOT_SIZE = 512  # slots × values up to which a matrix product is faster than a lookup


@keras.saving.register_keras_serializable("mim")
class AttributeEmbedding(Configurable, keras.layers.Layer):
    """Codes of an item's attributes → the sum of their embeddings.

    The sums are computed in float32 under every dtype policy, as the gradient of a row is one over a whole batch.

    Args:
        num_values: Rows; row 0 is no value and adds nothing.
        units: Width.

    Call arguments:
        codes: int [..., slots]; one out of range is no value.

    Returns:
        float [..., units].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import AttributeEmbedding
        >>> AttributeEmbedding(5, 8)(np.array([[1, 3], [2, 0]])).shape
        TensorShape([2, 8])
    """

    config_names = ("num_values", "units")

    def __init__(self, num_values: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_values, self.units = num_values, units

    def build(self, codes_shape: Any) -> None:
        self.embeddings = self.add_weight(
            shape=(self.num_values, self.units),
            initializer="glorot_uniform",
            name="embeddings",
            dtype="float32",
            autocast=False,
        )

    def call(self, codes: Any) -> Any:
        codes = ops.cast(codes, "int32")
        known = ops.logical_and(codes > NO_VALUE, codes < self.num_values)
        if codes.shape[-1] * self.num_values <= ONE_HOT_SIZE:
            absent_as_none = ops.where(known, codes, -1)  # one_hot of -1 is zero
            multi_hot = ops.sum(ops.one_hot(absent_as_none, self.num_values, dtype="float32"), axis=-2)
            return ops.cast(ops.matmul(multi_hot, self.embeddings), self.compute_dtype)
        rows = ops.take(self.embeddings, ops.where(known, codes, NO_VALUE), axis=0)
        summed = ops.sum(rows * ops.cast(known, "float32")[..., None], axis=-2)
        return ops.cast(summed, self.compute_dtype)

    def compute_output_shape(self, codes_shape: Any) -> tuple:
        return (*codes_shape[:-1], self.units)
