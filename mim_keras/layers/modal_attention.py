"""Modal interest: attention by the similarity of content."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import check_rank, check_same_length
from mim_keras.layers.folded_attention import FoldedAttention
from mim_keras.ops.masking import masked_softmax


@keras.saving.register_keras_serializable("mim")
class ModalAttention(FoldedAttention):
    """a_k = r_k/τ + (W_q p_t)·(W_k p_k)/√d; u = Σ softmax(a)_k W_v [p_k ; e_k].

    Args:
        dim: Width of the output.
        temperature: Initial value of τ, which is learned.

    Call arguments:
        target: Projected content embedding p_t of the target, float [B, P].
        history: Projected content embeddings p_k, float [H, L, P]; H is B or 1.
        side_features: What is pooled beside p_k, e_k, float [H, L, V].
        similarity: Cosine similarities r_k of the unprojected embeddings, float [B, L].
        history_mask: bool [B, L] or [H, L], true at behaviours that have content; None where all count.

    Returns:
        u, float [B, dim]; zeros where no behaviour has content.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import ModalAttention
        >>> target, history = np.ones((3, 8), "float32"), np.ones((3, 5, 8), "float32")
        >>> ids, similarity = np.ones((3, 5, 4), "float32"), np.zeros((3, 5), "float32")
        >>> ModalAttention(6)(target, history, side_features=ids, similarity=similarity).shape
        TensorShape([3, 6])

    Source: the modal module of MIM (2502.00321), in the form reported for its successor MOON (2508.11999).
    """

    config_names = ("dim", "temperature")

    query_is_content = True

    def __init__(self, dim: int, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.temperature = temperature

    def build(self, target_shape: Any, history_shape: Any, side_features_shape: Any, similarity_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch dim")
        check_rank(self, "history", history_shape, "batch length dim")
        check_rank(self, "similarity", similarity_shape, "batch length")
        check_same_length(self, history=history_shape, side_features=side_features_shape, similarity=similarity_shape)
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build((*history_shape[:-1], history_shape[-1] + side_features_shape[-1]))
        initial = keras.initializers.Constant(1 / self.temperature)
        self.inverse_temperature = self.add_weight(shape=(), initializer=initial, name="inverse_temperature")

    def attention_weights(self, scores: Any, similarity: Any, mask: Any) -> Any:
        logits = similarity * ops.cast(self.inverse_temperature, similarity.dtype) + scores[:, 0]  # (B, L)
        return masked_softmax(logits, mask)[:, None, :]

    def call(self, target: Any, history: Any, side_features: Any, similarity: Any, history_mask: Any = None) -> Any:
        values = ops.concatenate([history, side_features], axis=-1)
        return self._attend(target, history, values, similarity, history_mask)

    def compute_output_shape(
        self, target_shape: Any, history_shape: Any, side_features_shape: Any, similarity_shape: Any
    ) -> tuple:
        return (target_shape[0], self.dim)
