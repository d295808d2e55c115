"""Target attention by ids: scaled dot products."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.layers.base import check_rank
from mim_keras.layers.folded_attention import FoldedAttention
from mim_keras.ops.masking import masked_softmax


@keras.saving.register_keras_serializable("mim")
class TargetAttention(FoldedAttention):
    """a_k = (W_q e_t)·(W_k e_k)/√d per head; u = Σ softmax(a)_k W_v e_k, heads side by side.

    Args:
        dim: Width of the output, all heads together.
        heads: Number of heads.

    Call arguments:
        target: e_t, float [B, D_t].
        history: e_k, float [H, L, D]; H is B, or 1 for one history shared by all targets.
        history_mask: bool [H, L], true at behaviours; None where all positions count.

    Returns:
        u, float [B, dim]; zeros where the history is empty.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import TargetAttention
        >>> target, history = np.ones((3, 16), "float32"), np.ones((3, 50, 16), "float32")
        >>> TargetAttention(8)(target, history, history_mask=np.ones((3, 50), bool)).shape
        TensorShape([3, 8])

    Source: DIN (1706.06978), in the scaled dot-product form of the search-based models that followed it.
    """

    def build(self, target_shape: Any, history_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch dim")
        check_rank(self, "history", history_shape, "batch length dim")
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.value.build(history_shape)

    def attention_weights(self, scores: Any, similarity: Any, mask: Any) -> Any:
        return masked_softmax(scores, mask[:, None, :])

    def call(self, target: Any, history: Any, history_mask: Any = None) -> Any:
        return self._attend(target, history, history, None, history_mask)

    def compute_output_shape(self, target_shape: Any, history_shape: Any) -> tuple:
        return (target_shape[0], self.dim)
