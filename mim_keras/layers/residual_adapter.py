"""A linear adapter of a view."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import check_rank
from mim_keras.ops.normalization import l2_normalize


@keras.saving.register_keras_serializable("mim")
class ResidualAdapter(keras.layers.Layer):
    """v + W v, L2-normalised; W starts at zero, so that the layer starts as the identity on unit vectors.

    Call arguments:
        view: float [B, d].

    Returns:
        float [B, d].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import ResidualAdapter
        >>> ResidualAdapter()(np.array([[0.6, 0.8]], "float32")).numpy().round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def build(self, view_shape: Any) -> None:
        check_rank(self, "view", view_shape, "batch dim")
        self.kernel = self.add_weight(shape=(view_shape[-1], view_shape[-1]), initializer="zeros", name="kernel")

    def call(self, view: Any) -> Any:
        return l2_normalize(view + ops.matmul(view, self.kernel))

    def compute_output_shape(self, view_shape: Any) -> tuple:
        return tuple(view_shape)
