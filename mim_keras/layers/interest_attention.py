"""Several attentions of a target over its history, in one pass over the behaviours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer
from mim_keras.layers.content_similarity import Similarity
from mim_keras.layers.folded_attention import FoldedAttention
from mim_keras.layers.history_encoder import EncodedHistory
from mim_keras.layers.target_encoder import EncodedTarget
from mim_keras.ops.fused_attention import attention_scores, weighted_sum


@keras.saving.register_keras_serializable("mim")
class InterestAttention(MaskConsumingLayer):
    """The outputs of several attentions, which equal those of each on its own and cost two passes in all.

    Args:
        attentions: `TargetAttention`, `ModalAttention` and `SemanticTargetAttention` layers.

    Call arguments:
        target: `EncodedTarget` of B targets.
        history: `EncodedHistory` of H histories; H is B, or 1 for one history shared by all targets.
        similarity: `Similarity` [B, L]; None where no attention reads content.

    Returns:
        A list of [B, dim], one an attention.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import EncodedHistory, EncodedTarget, InterestAttention, TargetAttention
        >>> target = EncodedTarget(features=np.ones((2, 5), "float32"))
        >>> history = EncodedHistory(np.ones((2, 4, 5), "f4"), np.ones((2, 4), bool), mean=np.ones((2, 5), "f4"))
        >>> [output.shape for output in InterestAttention([TargetAttention(8), TargetAttention(6)])(target, history)]
        [TensorShape([2, 8]), TensorShape([2, 6])]
    """

    config_parts = ("attentions",)

    def __init__(self, attentions: Sequence[FoldedAttention], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attentions = list(attentions)

    def build(self, target_shape: EncodedTarget, history_shape: EncodedHistory) -> None:
        histories, length, width = history_shape.behaviours
        dim = target_shape.features[-1]
        similarity, history = (histories, length), (histories, length, dim)
        for attention in self.attentions:
            if attention.built:
                continue
            if attention.query_is_content:
                content = (histories, length, width - dim)
                attention.build(target_shape.content, content, history, similarity)
            elif hasattr(attention, "temperature"):
                attention.build(target_shape.features, history, similarity)
            else:
                attention.build(target_shape.features, history)

    def call(self, target: EncodedTarget, history: EncodedHistory, similarity: Similarity | None = None) -> list[Any]:
        behaviours, dim = history.behaviours, target.features.shape[-1]
        content_dim = behaviours.shape[-1] - dim
        cosine, content_mask = (None, None) if similarity is None else similarity
        queries = []
        for attention in self.attentions:  # over all features of a behaviour: zero where an attention does not look
            if attention.query_is_content:
                query, padding = attention.project_query(target.content), [0, dim]
            else:
                query, padding = attention.project_query(target.features), [content_dim, 0]
            queries.append(ops.pad(query, [[0, 0], [0, 0], padding]))
        scores = attention_scores(ops.concatenate(queries, axis=1), behaviours)  # (B, all heads, L)
        if history.recency is not None:
            scores = scores + ops.transpose(history.recency, (0, 2, 1))
        weights, offset = [], 0
        for attention in self.attentions:
            mask = content_mask if attention.query_is_content else history.mask
            own = scores[:, offset : offset + attention.heads]
            weights.append(attention.attention_weights(own, cosine, mask))
            offset += attention.heads
        context = weighted_sum(ops.concatenate(weights, axis=1), behaviours)  # (B, all heads, P + D)
        outputs, offset = [], 0
        for attention in self.attentions:
            first = 0 if attention.query_is_content else content_dim
            outputs.append(attention.project_output(context[:, offset : offset + attention.heads, first:]))
            offset += attention.heads
        return outputs

    def compute_output_shape(self, target_shape: EncodedTarget, history_shape: EncodedHistory) -> list[tuple]:
        return [(target_shape.features[0], attention.dim) for attention in self.attentions]
