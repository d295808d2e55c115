"""Fused interest (SA-TA): attention by ids, by content, and by both at once."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.interest.masked import dot, masked_softmax, weighted_sum


@keras.saving.register_keras_serializable("mim")
class SemanticAwareTargetAttention(keras.layers.Layer):
    """logits = b1·dot + b2·cos/τ + b3·dot·cos/τ per head; u = Σ softmax(logits)_k W_v e_k, heads side by side.

    Args:
        heads: Number of heads.
        dim: Width of all heads together.
        temperature: Where each head's learned τ starts.

    Call:
        target: e_t, [B, D].
        history: e_k, [H, L, D'].
        similarity: Cosines, [B, L]; zero where a vector is missing.
        present: True at real positions, bool [H, L].
        Returns [B, dim].

    Source: SA-TA of MUSE (2512.07216).
    """

    def __init__(self, heads: int, dim: int, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads; received dim={dim}, heads={heads}. Change one of them.")
        self.heads, self.dim, self.temperature = heads, dim, temperature
        self.query, self.key, self.value = (keras.layers.Dense(dim, use_bias=False) for _ in range(3))

    def build(self, target_shape: tuple, history_shape: tuple, similarity_shape: tuple, present_shape: tuple) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(history_shape)
        self.by_id = self.add_weight(shape=(self.heads,), initializer="ones", name="by_id")
        self.by_content = self.add_weight(shape=(self.heads,), initializer="ones", name="by_content")
        self.by_both = self.add_weight(shape=(self.heads,), initializer="ones", name="by_both")
        self.scale = self.add_weight(
            shape=(self.heads,), initializer=keras.initializers.Constant(1 / self.temperature), name="scale"
        )

    def call(self, target: Any, history: Any, similarity: Any, present: Any) -> Any:
        width = self.dim // self.heads
        query, key, value = self.query(target), self.key(history), self.value(history)
        heads = []
        for h in range(self.heads):
            part = slice(h * width, (h + 1) * width)
            by_id = dot(query[..., part], key[..., part]) / math.sqrt(width)  # (B, L)
            near = similarity * ops.cast(self.scale[h], similarity.dtype)
            logits = self.by_id[h] * by_id + self.by_content[h] * near + self.by_both[h] * by_id * near
            heads.append(weighted_sum(masked_softmax(logits, present), value[..., part]))
        return ops.concatenate(heads, axis=-1)

    def compute_output_shape(self, target_shape: tuple, *further: tuple) -> tuple:
        return (target_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "dim": self.dim, "temperature": self.temperature}
