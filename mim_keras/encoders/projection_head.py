"""From what a tower says to a vector of the shared space."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("mim")
class ProjectionHead(keras.layers.Layer):
    """W x + V relu(U x): a linear map, and beside it a small network for what is no sum of features.

    Args:
        dim: Of the vectors.
        hidden: Width of the network; 0 for none.

    Call takes features [B, D] and returns [B, dim], not yet of length one.
    """

    def __init__(self, dim: int, hidden: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden = dim, hidden
        self.linear = keras.layers.Dense(dim)
        self.inner = keras.layers.Dense(hidden, activation="relu") if hidden else None
        self.outer = keras.layers.Dense(dim, use_bias=False) if hidden else None

    def build(self, features_shape: tuple) -> None:
        self.linear.build(features_shape)
        if self.inner is not None and self.outer is not None:
            self.inner.build(features_shape)
            self.outer.build((*features_shape[:-1], self.hidden))

    def call(self, features: Any) -> Any:
        projected = self.linear(features)
        if self.inner is not None and self.outer is not None:
            projected = projected + self.outer(self.inner(features))
        return projected

    def compute_output_shape(self, features_shape: tuple) -> tuple:
        return (*features_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "hidden": self.hidden}
