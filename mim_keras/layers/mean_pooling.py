"""Mean pooling: the mean of the history, and its products with the target."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from mim_keras.layers.base import ABSENT, MaskConsumingLayer, TracedSpec, check_rank
from mim_keras.layers.history_encoder import EncodedHistory
from mim_keras.layers.target_encoder import EncodedTarget


class PooledInterest(NamedTuple):
    """Features of `MeanPooling`; None where a ranker has no ids, or no content.

    Attributes:
        ids: Product of the target's id embedding and the mean, and its sum, [B, id_dim + 1].
        content: Mean of the content, and its product with the target's, [B, 2 P].
    """

    ids: Any
    content: Any


@keras.saving.register_keras_serializable("mim")
class MeanPooling(TracedSpec, MaskConsumingLayer):
    """Products of targets with the means of their histories.

    Call arguments:
        target: `EncodedTarget` of B targets.
        history: `EncodedHistory` of H histories; H is B or 1.

    Returns:
        `PooledInterest`.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import EncodedHistory, EncodedTarget, MeanPooling
        >>> target = EncodedTarget(features=np.ones((2, 5)), id_embedding=np.full((2, 3), 2.0))
        >>> history = EncodedHistory(np.ones((2, 4, 5)), np.ones((2, 4), bool), mean=np.ones((2, 5)))
        >>> MeanPooling()(target, history).ids.numpy().tolist()[0]
        [2.0, 2.0, 2.0, 6.0]
    """

    def build(self, target_shape: Any, history_shape: Any) -> None:
        check_rank(self, "target.features", target_shape.features, "batch dim")
        check_rank(self, "history.behaviours", history_shape.behaviours, "histories length dim")

    def call(self, target: EncodedTarget, history: EncodedHistory) -> PooledInterest:
        ids = content = None
        if target.id_embedding is not None:
            product = target.id_embedding * history.mean[:, : target.id_embedding.shape[-1]]  # (B, id_dim)
            ids = ops.concatenate([product, ops.sum(product, axis=-1, keepdims=True)], axis=-1)
        if target.content is not None:
            mean = history.content_mean
            content = ops.concatenate(
                [ops.broadcast_to(mean, ops.shape(target.content)), target.content * mean], axis=-1
            )
        return PooledInterest(ids, content)

    def compute_output_shape(self, target_shape: EncodedTarget, history_shape: EncodedHistory) -> PooledInterest:
        batch = target_shape.features[0]
        ids = (batch, target_shape.id_embedding[-1] + 1) if target_shape.id_embedding else ABSENT
        content = (batch, 2 * target_shape.content[-1]) if target_shape.content else ABSENT
        return PooledInterest(ids, content)
