"""Fused interest (SA-TA): attention by ids, by content, and by both at once."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.interest.history_attention import HistoryAttention
from mim_keras.interest.masked import masked_softmax


@keras.saving.register_keras_serializable("mim")
class SemanticAwareTargetAttention(HistoryAttention):
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
        super().__init__(dim, **kwargs)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads; received dim={dim}, heads={heads}. Change one of them.")
        self.heads, self.temperature = heads, temperature

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

    def ask(self, target: Any) -> Any:
        width = self.dim // self.heads
        query = ops.reshape(self.query(target), (-1, self.heads, width)) / math.sqrt(width)
        return ops.einsum("bhw,dhw->bhd", query, self._by_head(self.key))

    def weigh(self, dots: Any, similarity: Any, present: Any) -> Any:
        scale, by_id, by_content, by_both = (
            ops.cast(ops.convert_to_tensor(value), dots.dtype)[:, None]
            for value in (self.scale, self.by_id, self.by_content, self.by_both)
        )
        near = similarity[:, None, :] * scale  # (B, heads, L)
        return masked_softmax(by_id * dots + by_content * near + by_both * dots * near, present[:, None, :])

    def tell(self, gathered: Any) -> Any:
        return ops.reshape(ops.einsum("bhd,dhw->bhw", gathered, self._by_head(self.value)), (-1, self.dim))

    def _by_head(self, layer: Any) -> Any:
        kernel = ops.cast(layer.kernel, self.compute_dtype)
        return ops.reshape(kernel, (-1, self.heads, self.dim // self.heads))  # (D', heads, width)

    def call(self, target: Any, history: Any, similarity: Any, present: Any) -> Any:
        return self.attend(target, history, similarity, present)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "temperature": self.temperature}
