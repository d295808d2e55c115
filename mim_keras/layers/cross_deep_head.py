"""The network that makes a logit of all features: a cross network and a deep network, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import keras_rs
from keras import ops

from mim_keras.layers.base import Configurable, check_rank


def make_crosses(count: int, projection_dim: int, dtype: Any) -> list[keras_rs.layers.FeatureCross]:
    """Low-rank cross layers, unbuilt."""
    return [
        keras_rs.layers.FeatureCross(projection_dim=projection_dim, dtype=dtype, name=f"cross_{n}")
        for n in range(count)
    ]


def build_crosses(crosses: Sequence[keras_rs.layers.FeatureCross], features_shape: Any) -> None:
    """Builds cross layers and the dense layers in them, which `FeatureCross.build` leaves unbuilt."""
    for layer in crosses:
        layer.build(features_shape)
        layer.down_proj_dense.build(features_shape)
        layer.dense.build((features_shape[0], layer.projection_dim))


def cross(crosses: Sequence[keras_rs.layers.FeatureCross], features: Any) -> Any:
    """Features crossed with themselves by each layer in turn, float [B, D]; without layers, the features."""
    crossed = features
    for layer in crosses:
        crossed = layer(features, crossed)
    return crossed


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
        self.crosses = make_crosses(cross_layers, projection_dim, dtype)
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
        build_crosses(self.crosses, features_shape)
        deep = width
        for dense in self.denses:
            dense.build((batch, deep))
            deep = dense.units
        self.logit.build((batch, width + deep))

    def call(self, features: Any, training: bool = False) -> Any:
        crossed, deep = cross(self.crosses, features), features
        for dense, dropout in zip(self.denses, self.dropouts, strict=True):
            deep = dropout(dense(deep), training=training)
        return self.logit(ops.concatenate([crossed, deep], axis=-1))

    def compute_output_shape(self, features_shape: Any) -> tuple:
        return (features_shape[0], 1)
