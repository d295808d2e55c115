"""Attention over a history whose padding must not count."""

from __future__ import annotations

from typing import Any

from keras import ops


def masked_softmax(logits: Any, mask: Any) -> Any:
    """Softmax over the last axis among the positions where `mask` is true; all zeros where none is.

    Args:
        logits: [..., L].
        mask: bool, broadcastable to [..., L].
    """
    mask = ops.broadcast_to(mask, ops.shape(logits))
    weights = ops.softmax(ops.where(mask, logits, ops.full_like(logits, -1e9)), axis=-1)
    return weights * ops.cast(mask, weights.dtype)


def dot(targets: Any, values: Any) -> Any:
    """targets [B, d] · values [H, L, d] → [B, L]; a history axis of one is shared by all B."""
    if values.shape[0] == 1:  # one history, many targets: a single product of matrices
        return ops.matmul(targets, ops.transpose(values[0]))
    return ops.sum(targets[:, None, :] * values, axis=-1)


def weighted_sum(weights: Any, values: Any) -> Any:
    """Σ_l weights[b, l] · values[h, l, :] → [B, d]; a history axis of one is shared by all B."""
    if values.shape[0] == 1:
        return ops.matmul(weights, values[0])
    return ops.sum(weights[..., None] * values, axis=1)


def mean_over(values: Any, mask: Any) -> Any:
    """Mean of values [H, L, d] over the positions where `mask` [H, L] is true → [H, d]; zero where none is."""
    count = ops.cast(mask, values.dtype)[..., None]
    return ops.sum(values * count, axis=1) / ops.maximum(ops.sum(count, axis=1), 1.0)
