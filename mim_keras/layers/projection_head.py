"""From tower features to the shared embedding space."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.layers.base import Configurable, check_rank


@keras.saving.register_keras_serializable("mim")
class ProjectionHead(Configurable, keras.layers.Layer):
    """W x + V relu(U x): a linear map, and beside it an MLP for what is not a sum of features.

    Args:
        dim: Width of the output.
        hidden_dim: Units of the MLP; 0: no MLP.

    Call arguments:
        features: float [B, D].

    Returns:
        float [B, dim], not normalised.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import ProjectionHead
        >>> ProjectionHead(8, hidden_dim=16)(np.ones((2, 5), "float32")).shape
        TensorShape([2, 8])
    """

    config_names = ("dim", "hidden_dim")

    def __init__(self, dim: int, hidden_dim: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden_dim = dim, hidden_dim
        dense, dtype = keras.layers.Dense, self.dtype_policy
        self.linear = dense(dim, dtype=dtype, name="linear")
        self.mlp_in = dense(hidden_dim, activation="relu", dtype=dtype, name="mlp_in") if hidden_dim else None
        self.mlp_out = dense(dim, use_bias=False, dtype=dtype, name="mlp_out") if hidden_dim else None

    def build(self, features_shape: Any) -> None:
        check_rank(self, "features", features_shape, "batch dim")
        self.linear.build(features_shape)
        if self.mlp_in is not None and self.mlp_out is not None:
            self.mlp_in.build(features_shape)
            self.mlp_out.build((*features_shape[:-1], self.hidden_dim))

    def call(self, features: Any) -> Any:
        projected = self.linear(features)
        if self.mlp_in is not None and self.mlp_out is not None:
            projected = projected + self.mlp_out(self.mlp_in(features))
        return projected

    def compute_output_shape(self, features_shape: Any) -> tuple:
        return (*features_shape[:-1], self.dim)
