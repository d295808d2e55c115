"""Learned similarity: the cosine of target and behaviours in a space that the clicks teach."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer, check_rank
from mim_keras.ops.fused_attention import pairwise_dot, weighted_sum
from mim_keras.ops.masking import masked_softmax
from mim_keras.ops.normalization import l2_normalize

SHARPNESS = 10.0  # of the softmax that weighs the behaviours


@keras.saving.register_keras_serializable("mim")
class LearnedSimilarity(MaskConsumingLayer):
    """One network embeds targets and behaviours; their cosine similarities are summed up.

    Args:
        units: Width of its two layers.

    Call arguments:
        target: Features of the targets, float [B, D].
        history: The same features of the behaviours, float [H, L, D]; H is B or 1.
        history_mask: bool [H, L], true at behaviours; None: at all.

    Returns:
        The largest and the mean cosine similarity, and the product of the target with the mean of the behaviours,
        weighted by similarity, float [B, 2 + units]; zeros for an empty history.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import LearnedSimilarity
        >>> mask = np.ones((2, 5), bool)
        >>> LearnedSimilarity(4)(np.ones((2, 3)), np.ones((2, 5, 3)), history_mask=mask).shape
        TensorShape([2, 6])

    Source: measured in docs/experiments.md.
    """

    config_names = ("units",)

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        dtype = self.dtype_policy
        self.hidden = keras.layers.Dense(units, activation="gelu", dtype=dtype, name="hidden")
        self.output_layer = keras.layers.Dense(units, dtype=dtype, name="output")

    def build(self, target_shape: Any, history_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch dim")
        check_rank(self, "history", history_shape, "histories length dim")
        self.hidden.build(target_shape)
        self.output_layer.build((*target_shape[:-1], self.units))

    def call(self, target: Any, history: Any, history_mask: Any = None) -> Any:
        if history_mask is None:
            history_mask = ops.ones(ops.shape(history)[:2], "bool")
        one, many = (l2_normalize(self.output_layer(self.hidden(value))) for value in (target, history))
        cosine = pairwise_dot(one, many)  # (B, L)
        mask = ops.broadcast_to(history_mask, ops.shape(cosine))
        weights = masked_softmax(cosine * SHARPNESS, mask)
        present = ops.cast(mask, cosine.dtype)
        mean = ops.sum(cosine * present, axis=1) / ops.maximum(ops.sum(present, axis=1), 1.0)
        largest = ops.max(ops.where(mask, cosine, -1.0), axis=1, initial=-1.0)
        largest = ops.where(ops.any(mask, axis=1), largest, 0.0)
        weighted = weighted_sum(weights[:, None, :], many)[:, 0]
        features = ops.concatenate([largest[:, None], mean[:, None], one * weighted], axis=1)
        return ops.cast(features, self.compute_dtype)

    def compute_output_shape(self, target_shape: Any, history_shape: Any) -> tuple:
        return (target_shape[0], 2 + self.units)
