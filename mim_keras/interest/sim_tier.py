"""SimTier: how many items of the history lie at each degree of likeness to the target."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class SimTier(keras.layers.Layer):
    """A histogram of cosines: log(count + 1) × a learned scalar for each bin.

    Args:
        bins: Bins of equal width over [-1, 1]; 20 are 0.1 wide.

    Call:
        similarity: Cosines r_k, [B, L].
        present: True where a position counts, bool, broadcastable to [B, L].
        Returns [B, bins].

    Source: SimTier (2407.19467).
    """

    def __init__(self, bins: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins

    def build(self, similarity_shape: tuple, present_shape: tuple) -> None:
        self.scale = self.add_weight(shape=(self.bins,), initializer="ones", name="scale")

    def call(self, similarity: Any, present: Any) -> Any:
        place = ops.floor((similarity + 1.0) * (self.bins / 2))
        place = ops.where(present, ops.cast(ops.clip(place, 0, self.bins - 1), "int32"), -1)
        count = ops.sum(ops.one_hot(place, self.bins, dtype=self.scale.dtype), axis=1)  # −1 counts nowhere
        return ops.cast(ops.log(count + 1.0) * self.scale, self.compute_dtype)

    def compute_output_shape(self, similarity_shape: tuple, present_shape: tuple) -> tuple:
        return (similarity_shape[0], self.bins)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins}
