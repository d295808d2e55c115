"""Search: the behaviours of a long history that attention reads."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer, TracedSpec, check_rank


@keras.saving.register_keras_serializable("mim")
class TopKSearch(TracedSpec, MaskConsumingLayer):
    """Indices of the `k` behaviours that are most similar to the target, in order of time.

    Args:
        k: Behaviours that are kept.

    Call arguments:
        similarity: Cosine similarities of the target and each behaviour, float [B, L]; zero where an embedding is
            missing.
        history_mask: bool [H, L], true at behaviours; H is B, or 1 for one history shared by all targets.

    Returns:
        int32 [B, min(k, L)], ascending.  Where a history has fewer behaviours, indices of masked positions follow.

    Nothing is learned: a learned search gained nothing over cosine similarity (MUSE).

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import TopKSearch
        >>> similarity = np.array([[0.1, 0.9, 0.5]], "float32")
        >>> TopKSearch(2)(similarity, history_mask=np.ones((1, 3), bool)).numpy().tolist()
        [[1, 2]]

    Source: MUSE (2512.07216); the general search unit of SIM (2006.05639).
    """

    config_names = ("k",)

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1; received {k}. 50 is usual.")
        self.k = k

    def build(self, similarity_shape: Any) -> None:
        check_rank(self, "similarity", similarity_shape, "batch length")

    def call(self, similarity: Any, history_mask: Any) -> Any:
        masked_similarity = ops.where(history_mask, similarity, ops.full_like(similarity, -2.0))
        length = ops.shape(similarity)[1]
        static = isinstance(length, int)
        if not static:  # `top_k` needs a static k: there must be at least k columns
            masked_similarity = ops.pad(masked_similarity, [[0, 0], [0, self.k]], constant_values=-3.0)
        _, indices = ops.top_k(masked_similarity, min(self.k, length) if static else self.k)
        indices = ops.sort(ops.cast(indices, "int32"), axis=-1)
        return indices if static else indices[:, : ops.minimum(length, self.k)]

    def compute_output_shape(self, similarity_shape: Any) -> tuple:
        batch, length = similarity_shape
        return (batch, None if length is None else min(self.k, length))


def gather_behaviours(values: Any, indices: Any) -> Any:
    """values [H, L] or [H, L, D] at indices [B, k] → [B, k] or [B, k, D]; H is B or 1."""
    if values.shape[0] == 1:
        return ops.take(values[0], indices, axis=0)
    if len(values.shape) == 2:
        return ops.take_along_axis(values, indices, axis=1)
    length = ops.shape(values)[1]
    rows = ops.arange(ops.shape(indices)[0], dtype="int32")[:, None] * length + indices
    return ops.take(ops.reshape(values, (-1, values.shape[-1])), rows, axis=0)
