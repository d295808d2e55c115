"""The network that makes a logit of all features: a cross network and a deep network, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import keras_rs
from keras import ops

from mim_keras.layers.base import Configurable, check_rank


@keras.saving.register_keras_serializable("mim")
class CrossDeepHead(Configurable, keras.layers.Layer):
    """logit = W [cross(x); deep(x)] + b, with low-rank cross layers (DCN-v2) and ReLU dense layers.

    Args:
        cross_layers: Number of cross layers; 0: the features themselves.
        hidden: Units of the dense layers.
        dropout: Rate after each dense layer.
        projection_dim: Rank of the cross layers.

    Call arguments:
        features: float [B, D].

    Returns:
        Logits, float [B, 1].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import CrossDeepHead
        >>> CrossDeepHead(cross_layers=2, hidden=(64, 32))(np.ones((3, 20), "float32")).shape
        TensorShape([3, 1])

    Source: DCN-v2 (2008.13535).
    """

    config_names = ("cross_layers", "hidden", "dropout", "projection_dim")

    def __init__(
        self, cross_layers: int, hidden: Sequence[int], dropout: float = 0.0, projection_dim: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cross_layers, self.hidden, self.dropout = cross_layers, tuple(hidden), dropout
        self.projection_dim = projection_dim
        dtype = self.dtype_policy
        self.crosses = [
            keras_rs.layers.FeatureCross(projection_dim=projection_dim, dtype=dtype, name=f"cross_{n}")
            for n in range(cross_layers)
        ]
        self.denses = [
            keras.layers.Dense(
                units, activation="relu", kernel_initializer="he_normal", dtype=dtype, name=f"dense_{index}"
            )
            for index, units in enumerate(self.hidden)
        ]
        self.dropouts = [keras.layers.Dropout(dropout, dtype=dtype) for _ in self.hidden]
        self.logit = keras.layers.Dense(1, dtype=dtype, name="logit")

    def build(self, features_shape: Any) -> None:
        check_rank(self, "features", features_shape, "batch dim")
        batch, width = features_shape
        for cross in self.crosses:
            cross.build(features_shape)
            cross.down_proj_dense.build(features_shape)
            cross.dense.build((batch, self.projection_dim))
        deep = width
        for dense in self.denses:
            dense.build((batch, deep))
            deep = dense.units
        self.logit.build((batch, width + deep))

    def call(self, features: Any, training: bool = False) -> Any:
        crossed = features
        for cross in self.crosses:
            crossed = cross(features, crossed)
        deep = features
        for dense, dropout in zip(self.denses, self.dropouts, strict=True):
            deep = dropout(dense(deep), training=training)
        return self.logit(ops.concatenate([crossed, deep], axis=-1))

    def compute_output_shape(self, features_shape: Any) -> tuple:
        return (features_shape[0], 1)
