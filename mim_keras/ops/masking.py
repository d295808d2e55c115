"""Softmax and means over the positions of a history that count; `HistoryEncoder` makes the mask."""

from __future__ import annotations

from typing import Any

from keras import ops

from mim_keras.ops.fused_attention import weighted_sum


def masked_softmax(logits: Any, mask: Any) -> Any:
    """Softmax over the last axis among the positions where `mask` is true; all zeros where none is.

    Computed in float32, since the logit of a masked position overflows float16.

    Args:
        logits: float [..., L].
        mask: bool, broadcastable to [..., L].

    Example:
        >>> import numpy as np
        >>> from mim_keras.ops.masking import masked_softmax
        >>> np.asarray(masked_softmax(np.zeros((1, 3), "float32"), np.array([[True, True, False]]))).tolist()
        [[0.5, 0.5, 0.0]]
    """
    mask = ops.broadcast_to(mask, ops.shape(logits))
    logits32 = ops.cast(logits, "float32")
    weights = ops.softmax(ops.where(mask, logits32, ops.full_like(logits32, -1e9)), axis=-1)
    return ops.cast(weights * ops.cast(mask, "float32"), logits.dtype)


def masked_means(masks: list[Any], behaviours: Any) -> list[Any]:
    """Means of behaviours [H, L, D] over the positions of each mask [H, L], one [H, D] a mask; zeros where none counts.

    Divides after the sum: XLA does not repeat a division for every behaviour, as it would in the gradient otherwise
    (a fifth of the step of a model without attention).
    """
    stacked = ops.stack(masks, axis=1)  # (H, masks, L)
    counts = ops.maximum(ops.sum(ops.cast(stacked, "float32"), axis=2, keepdims=True), 1.0)
    sums = weighted_sum(ops.cast(stacked, behaviours.dtype), behaviours)  # (H, masks, D)
    means = sums / ops.cast(counts, behaviours.dtype)
    return [means[:, index] for index in range(len(masks))]
