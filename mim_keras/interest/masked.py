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
    """targets [B, d] · values [H, L, d] → [B, L]; a history axis of one is shared by all B.

    Products of matrices throughout: XLA, on a CPU, takes four times as long for a sum over the last axis.
    """
    if values.shape[0] == 1:  # one history, many targets: a single product of matrices
        return ops.matmul(targets, ops.transpose(values[0]))
    return ops.matmul(values, targets[:, :, None])[..., 0]


def products(queries: Any, clicks: Any) -> Any:
    """queries [B, heads, D] · clicks [H, L, D] → [B, heads, L]; a history axis of one is shared by all B."""
    return ops.matmul(queries, ops.transpose(clicks[0] if clicks.shape[0] == 1 else clicks, axes=_last_two(clicks)))


def sums(weights: Any, clicks: Any) -> Any:
    """Σ_l weights[b, h, l] · clicks[b, l, :] → [B, heads, D]; a history axis of one is shared by all B."""
    return ops.matmul(weights, clicks[0] if clicks.shape[0] == 1 else clicks)


def means(masks: list[Any], clicks: Any) -> list[Any]:
    """Means of clicks [H, L, D] over the positions where each mask [H, L] is true → [H, D] each; zero where none is."""
    weights = []
    for mask in masks:
        there = ops.cast(mask, clicks.dtype)
        weights.append(there / ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0))
    found = sums(ops.stack(weights, axis=1), clicks)  # (H, masks, D)
    return [found[:, place] for place in range(len(masks))]


def _last_two(clicks: Any) -> tuple[int, ...]:
    return (1, 0) if clicks.shape[0] == 1 else (0, 2, 1)
