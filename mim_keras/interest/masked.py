"""Attention over a history whose padding must not count."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def masked_softmax(logits: Any, mask: Any) -> Any:
    """Softmax over the last axis among the positions where `mask` is true; all zeros where none is.

    Worked out in float32: what stands for minus infinity is beyond float16.

    Args:
        logits: [..., L].
        mask: bool, broadcastable to [..., L].
    """
    mask = ops.broadcast_to(mask, ops.shape(logits))
    wide = ops.cast(logits, "float32")
    weights = ops.softmax(ops.where(mask, wide, ops.full_like(wide, -1e9)), axis=-1)
    return ops.cast(weights * ops.cast(mask, "float32"), logits.dtype)


def in_one_piece(values: Any) -> Any:
    """The values, which must be finite; XLA works out what is before this by itself, and what is after it by itself.

    Left to itself it moves slices and transpositions to where they cost more: a slice of a sum over clicks becomes a
    second sum over them, and a transposed product one whose factors change places.  It moves none over a comparison.
    """
    largest = 6e4 if keras.backend.standardize_dtype(values.dtype) == "float16" else 1e30
    return ops.minimum(values, largest)


def dot(targets: Any, values: Any) -> Any:
    """targets [B, d] · values [H, L, d] → [B, L]; a history axis of one is shared by all B.

    Products of matrices throughout: XLA, on a CPU, takes four times as long for a sum over the last axis.
    """
    if values.shape[0] == 1:  # one history, many targets: a single product of matrices
        return ops.matmul(targets, ops.transpose(values[0]))
    return ops.matmul(values, targets[:, :, None])[..., 0]


def products(queries: Any, clicks: Any) -> Any:
    """queries [B, heads, D] · clicks [H, L, D] → [B, heads, L]; a history axis of one is shared by all B."""
    if clicks.shape[0] == 1:
        return ops.matmul(queries, ops.transpose(clicks[0]))
    return _products(queries, clicks)


def sums(weights: Any, clicks: Any) -> Any:
    """Σ_l weights[b, h, l] · clicks[b, l, :] → [B, heads, D]; a history axis of one is shared by all B."""
    if clicks.shape[0] == 1:
        return ops.matmul(weights, clicks[0])
    return _sums(weights, clicks)


# Of both, the gradient towards the clicks is a sum of outer products over the few heads.  Written as such it is one
# pass that XLA fuses with what is added to it; as the product of matrices that it would otherwise be made of, it takes
# four times as long on a CPU.


@ops.custom_gradient
def _products(queries: Any, clicks: Any) -> tuple[Any, Any]:
    def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any]:
        towards = arguments[0] if upstream is None else upstream
        return ops.matmul(towards, clicks), _outer(towards, queries)

    return _inner(queries, clicks), gradient


@ops.custom_gradient
def _sums(weights: Any, clicks: Any) -> tuple[Any, Any]:
    def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any]:
        towards = arguments[0] if upstream is None else upstream
        return _inner(towards, clicks), _outer(weights, towards)

    return ops.matmul(weights, clicks), gradient


def _inner(queries: Any, clicks: Any) -> Any:
    """queries [B, heads, D] · clicks [B, L, D] → [B, heads, L]; clicks first, which are many, takes half as long."""
    found = ops.matmul(clicks, ops.transpose(queries, (0, 2, 1)))  # (B, L, heads)
    return ops.transpose(in_one_piece(found), (0, 2, 1))


def _outer(left: Any, right: Any) -> Any:
    """Σ_h left[b, h, l] · right[b, h, d] → [B, L, D]."""
    # Each axis by itself: of a slice that picks a head and adds an axis, TensorFlow's optimizer loses the axis.
    parts = [
        ops.expand_dims(left[:, head], 2) * ops.expand_dims(right[:, head], 1)  # (B, L, 1) · (B, 1, D)
        for head in range(left.shape[1])
    ]
    return sum(parts[1:], parts[0])


def means(masks: list[Any], clicks: Any) -> list[Any]:
    """Means of clicks [H, L, D] over the positions where each mask [H, L] is true → [H, D] each; zero where none is.

    Divided after the sum: XLA does not repeat a division for every click, as it would all that the gradient is made of,
    a fifth of the step of a model without attention.
    """
    there = ops.stack(masks, axis=1)  # (H, masks, L)
    many = ops.maximum(ops.sum(ops.cast(there, "float32"), axis=2, keepdims=True), 1.0)
    found = sums(ops.cast(there, clicks.dtype), clicks) / ops.cast(many, clicks.dtype)  # (H, masks, D)
    return [found[:, place] for place in range(len(masks))]
