"""ID interest: what of the history bears on the target, by ids alone."""

from __future__ import annotations

import math
from typing import Any

import keras

from mim_keras.interest.history_attention import HistoryAttention
from mim_keras.interest.masked import masked_softmax


@keras.saving.register_keras_serializable("mim")
class TargetAttention(HistoryAttention):
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

    def build(self, target_shape: tuple, history_shape: tuple, present_shape: tuple) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(history_shape)

    def ask(self, target: Any) -> Any:
        query = self.query(target) / math.sqrt(self.dim)
        return self._held_against_clicks(query)[:, None, :]

    def weigh(self, dots: Any, similarity: Any, present: Any) -> Any:
        return masked_softmax(dots, present[:, None, :])

    def tell(self, gathered: Any) -> Any:
        return self.value(gathered[:, 0])

    def call(self, target: Any, history: Any, present: Any) -> Any:
        return self.attend(target, history, None, present)
