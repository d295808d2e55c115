"""Modal interest: what of the history looks and reads like the target."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.interest.history_attention import HistoryAttention, attend
from mim_keras.interest.masked import masked_softmax


@keras.saving.register_keras_serializable("mim")
class ModalAttention(HistoryAttention):
    """a_k = r_k/τ + (W_q p_t)·(W_k p_k)/√d; u = Σ softmax(a)_k W_v [p_k ; e_k].

    Args:
        dim: Width d.
        temperature: Where the learned τ starts.

    Call:
        target: Compressed vector p_t, [B, D].
        history: Compressed vectors p_k, [H, L, D].
        further: What is gathered beside p_k, e_k, [H, L, V].
        similarity: Cosines r_k of the raw vectors, [B, L].
        present: True at positions that are real and have a vector, bool [B, L] or [H, L].
        Returns u, [B, d].

    Source: the modal module of MIM (2502.00321), in the form reported for its successor MOON (2508.11999).
    """

    def __init__(self, dim: int, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.temperature = temperature

    def build(
        self,
        target_shape: tuple,
        history_shape: tuple,
        further_shape: tuple,
        similarity_shape: tuple,
        present_shape: tuple,
    ) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build((*history_shape[:-1], history_shape[-1] + further_shape[-1]))
        self.scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(1 / self.temperature), name="scale"
        )

    def ask(self, target: Any, further: int = 0) -> Any:
        """Queries [B, 1, D + further], which look at the compressed vectors alone."""
        query = self.query(target) / math.sqrt(self.dim)
        return ops.pad(self._held_against_clicks(query), [[0, 0], [0, further]])[:, None, :]

    def weigh(self, dots: Any, similarity: Any, present: Any) -> Any:
        logits = similarity * ops.cast(self.scale, similarity.dtype) + dots[:, 0]  # (B, L)
        return masked_softmax(logits, present)[:, None, :]

    def tell(self, gathered: Any) -> Any:
        return self.value(gathered[:, 0])

    def call(self, target: Any, history: Any, further: Any, similarity: Any, present: Any) -> Any:
        clicks = ops.concatenate([history, further], axis=-1)
        return attend([(self, self.ask(target, further.shape[-1]), similarity, present)], clicks)[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
