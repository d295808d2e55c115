"""Modal interest: what of the history looks and reads like the target."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.interest.masked import dot, masked_softmax, weighted_sum


@keras.saving.register_keras_serializable("mim")
class ModalAttention(keras.layers.Layer):
    """a_k = r_k/τ + (W_q p_t)·(W_k p_k)/√d; u = Σ softmax(a)_k W_v h_k.

    Args:
        dim: Width d.
        temperature: Where the learned τ starts.

    Call:
        target: Compressed vector p_t, [B, D].
        history: Compressed vectors p_k, [H, L, D].
        values: What is gathered, h_k, [H, L, V] (p_k and e_k side by side).
        similarity: Cosines r_k of the raw vectors, [B, L].
        present: True at positions that are real and have a vector, bool [B, L] or [H, L].
        Returns u, [B, d].

    Source: the modal module of MIM (2502.00321), in the form reported for its successor MOON (2508.11999).
    """

    def __init__(self, dim: int, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.temperature = dim, temperature
        self.query, self.key, self.value = (keras.layers.Dense(dim, use_bias=False) for _ in range(3))

    def build(
        self,
        target_shape: tuple,
        history_shape: tuple,
        values_shape: tuple,
        similarity_shape: tuple,
        present_shape: tuple,
    ) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(values_shape)
        self.scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(1 / self.temperature), name="scale"
        )

    def call(self, target: Any, history: Any, values: Any, similarity: Any, present: Any) -> Any:
        projected = dot(self.query(target), self.key(history)) / math.sqrt(self.dim)
        logits = similarity * ops.cast(self.scale, similarity.dtype) + projected  # (B, L)
        return weighted_sum(masked_softmax(logits, present), self.value(values))

    def compute_output_shape(self, target_shape: tuple, *further: tuple) -> tuple:
        return (target_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "temperature": self.temperature}
