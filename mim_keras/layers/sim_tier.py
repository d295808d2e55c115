"""SimTier: how many behaviours lie at each level of similarity to the target."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer, check_rank


@keras.saving.register_keras_serializable("mim")
class SimTier(MaskConsumingLayer):
    """A histogram of cosine similarities: log(count + 1) × a learned weight for each bin.

    Args:
        bins: Bins of equal width over [-1, 1]; 20 are 0.1 wide.

    Call arguments:
        similarity: Cosine similarities of the target and each behaviour, float [B, L].
        similarity_mask: bool, broadcastable to [B, L], true where a similarity counts; None where all count.

    Returns:
        float [B, bins].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import SimTier
        >>> SimTier(4)(np.array([[0.9, 0.7, -0.1]], "float32")).numpy().round(2).tolist()
        [[0.0, 0.6899999976158142, 0.0, 1.100000023841858]]

    Source: SimTier (2407.19467).
    """

    config_names = ("bins",)

    def __init__(self, bins: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins

    def build(self, similarity_shape: Any) -> None:
        check_rank(self, "similarity", similarity_shape, "batch length")
        self.bin_weights = self.add_weight(shape=(self.bins,), initializer="ones", name="bin_weights")

    def call(self, similarity: Any, similarity_mask: Any = None) -> Any:
        bin_index = ops.floor((similarity + 1.0) * (self.bins / 2))
        bin_index = ops.cast(ops.clip(bin_index, 0, self.bins - 1), "int32")
        if similarity_mask is not None:
            bin_index = ops.where(similarity_mask, bin_index, -1)  # one_hot of -1 is zero
        counts = ops.sum(ops.one_hot(bin_index, self.bins, dtype=self.bin_weights.dtype), axis=1)  # (B, bins)
        return ops.cast(ops.log(counts + 1.0) * self.bin_weights, self.compute_dtype)

    def compute_output_shape(self, similarity_shape: Any) -> tuple:
        return (similarity_shape[0], self.bins)
