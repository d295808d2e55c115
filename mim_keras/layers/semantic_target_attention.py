"""Fused interest (SA-TA): attention by ids, by content, and by their product."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import check_rank, check_same_length
from mim_keras.layers.folded_attention import FoldedAttention
from mim_keras.ops.masking import masked_softmax


@keras.saving.register_keras_serializable("mim")
class SemanticTargetAttention(FoldedAttention):
    """logits = b₁·dot + b₂·cos/τ + b₃·dot·cos/τ per head; u = Σ softmax(logits)_k W_v e_k, heads side by side.

    Args:
        dim: Width of the output, all heads together.
        heads: Number of heads.
        temperature: Initial value of each head's τ, which is learned.

    Call arguments:
        target: e_t, float [B, D_t].
        history: e_k, float [H, L, D]; H is B or 1.
        similarity: Cosine similarities, float [B, L]; zero where an embedding is missing.
        history_mask: bool [H, L], true at behaviours; None where all count.

    Returns:
        u, float [B, dim]; zeros where the history is empty.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import SemanticTargetAttention
        >>> target, history = np.ones((3, 16), "float32"), np.ones((3, 50, 16), "float32")
        >>> SemanticTargetAttention(8, heads=2)(target, history, similarity=np.zeros((3, 50), "float32")).shape
        TensorShape([3, 8])

    Source: SA-TA of MUSE (2512.07216).
    """

    config_names = ("dim", "heads", "temperature")

    def __init__(self, dim: int, heads: int = 1, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(dim, heads, **kwargs)
        self.temperature = temperature

    def build(self, target_shape: Any, history_shape: Any, similarity_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch dim")
        check_rank(self, "history", history_shape, "batch length dim")
        check_rank(self, "similarity", similarity_shape, "batch length")
        check_same_length(self, history=history_shape, similarity=similarity_shape)
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(history_shape)

        def weight(name: str, value: float) -> Any:
            return self.add_weight(shape=(self.heads,), initializer=keras.initializers.Constant(value), name=name)

        self.id_weight, self.content_weight = weight("id_weight", 1.0), weight("content_weight", 1.0)
        self.interaction_weight = weight("interaction_weight", 1.0)
        self.inverse_temperature = weight("inverse_temperature", 1 / self.temperature)

    def attention_weights(self, scores: Any, similarity: Any, mask: Any) -> Any:
        inverse_temperature, by_id, by_content, by_interaction = (
            ops.cast(ops.convert_to_tensor(weight), scores.dtype)[:, None]  # (heads, 1)
            for weight in (self.inverse_temperature, self.id_weight, self.content_weight, self.interaction_weight)
        )
        scaled = similarity[:, None, :] * inverse_temperature  # (B, heads, L)
        logits = by_id * scores + by_content * scaled + by_interaction * scores * scaled
        return masked_softmax(logits, mask[:, None, :])

    def call(self, target: Any, history: Any, similarity: Any, history_mask: Any = None) -> Any:
        return self._attend(target, history, history, similarity, history_mask)

    def compute_output_shape(self, target_shape: Any, history_shape: Any, similarity_shape: Any) -> tuple:
        return (target_shape[0], self.dim)
