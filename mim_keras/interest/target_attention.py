"""ID interest: what of the history bears on the target, by ids alone."""

from __future__ import annotations

import math
from typing import Any

import keras

from mim_keras.interest.masked import dot, masked_softmax, weighted_sum


@keras.saving.register_keras_serializable("mim")
class TargetAttention(keras.layers.Layer):
    """a_k = (W_q e_t)·(W_k e_k)/√d; u = Σ softmax(a)_k W_v e_k.

    Args:
        dim: Width d of queries, keys and values.

    Call:
        target: e_t, [B, D].
        history: e_k, [H, L, D']; H is B, or 1 for one history shared by all targets.
        present: True at real positions, bool [H, L].
        Returns u, [B, d]; zeros where a history is empty.

    Example:
        >>> layer = TargetAttention(8)
        >>> u = layer(target, history, present)  # (B, 16), (B, 50, 16), (B, 50) -> (B, 8)

    Source: DIN (1706.06978) in the scaled dot-product form of the search-based models that followed it.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.query, self.key, self.value = (keras.layers.Dense(dim, use_bias=False) for _ in range(3))

    def build(self, target_shape: tuple, history_shape: tuple, present_shape: tuple) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(history_shape)

    def call(self, target: Any, history: Any, present: Any) -> Any:
        logits = dot(self.query(target), self.key(history)) / math.sqrt(self.dim)  # (B, L)
        return weighted_sum(masked_softmax(logits, present), self.value(history))

    def compute_output_shape(self, target_shape: tuple, history_shape: tuple, present_shape: tuple) -> tuple:
        return (target_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim}
