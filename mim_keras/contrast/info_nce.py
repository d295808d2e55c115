"""InfoNCE over one row of candidates for each query."""

from __future__ import annotations

from typing import Any

from keras import ops

BLOCKED = -1e9


def info_nce(logits: Any, positive: Any, blocked: Any | None = None, weights: Any | None = None) -> Any:
    """Mean cross-entropy of picking each query's positive among its candidates.

    Args:
        logits: Similarities over temperature, [B, N].
        positive: Column of each query's positive, int [B].
        blocked: True where a candidate is no fair negative, bool [B, N]; the positive is never blocked.
        weights: Weight of each query, [B]; all weights zero gives a loss of zero.

    Source: van den Oord et al. 2018 (1807.03748); masking as in keras-rs' RemoveAccidentalHits.
    """
    own = ops.one_hot(positive, ops.shape(logits)[1], dtype=logits.dtype)  # (B, N)
    if blocked is not None:
        logits = fair_logits(logits, positive, blocked)
    loss = ops.logsumexp(logits, axis=-1) - ops.sum(own * logits, axis=-1)  # (B,)
    if weights is None:
        return ops.mean(loss)
    weights = ops.cast(weights, loss.dtype)
    return ops.sum(loss * weights) / ops.maximum(ops.sum(weights), 1.0)


def fair_logits(logits: Any, positive: Any, blocked: Any) -> Any:
    """The logits [B, N], very small where a candidate is blocked and not the positive."""
    own = ops.one_hot(positive, ops.shape(logits)[1])
    return ops.where(ops.logical_and(blocked, own < 0.5), BLOCKED, logits)


def alignment_loss(image: Any, text: Any, both: Any, scale: Any) -> Any:
    """Symmetric image-text InfoNCE over a batch; rows that lack a modality take no part.

    Args:
        image: Vectors of length one, [B, d].
        text: Vectors of length one, [B, d].
        both: 1 where a row has both modalities, [B].
        scale: 1 / temperature.

    Source: CLIP (2103.00020).
    """
    similarity = ops.cast(ops.matmul(image, ops.transpose(text)), "float32") * ops.cast(scale, "float32")  # (B, B)
    own = ops.arange(ops.shape(image)[0])
    absent = ops.broadcast_to(ops.cast(both, "float32")[None, :] < 0.5, ops.shape(similarity))
    forward = info_nce(similarity, own, absent, both)
    backward = info_nce(ops.transpose(similarity), own, absent, both)
    return 0.5 * (forward + backward)


def sigmoid_alignment_loss(image: Any, text: Any, both: Any, scale: Any, bias: Any) -> Any:
    """Image-text alignment by one yes or no for each pair of a batch; rows that lack a modality take no part.

    Args:
        image, text, both, scale: As `alignment_loss` takes them.
        bias: Added to every logit; learned, and at first as low as most pairs are wrong.

    Source: SigLIP (2303.15343).
    """
    similarity = ops.cast(ops.matmul(image, ops.transpose(text)), "float32")
    logits = similarity * ops.cast(scale, "float32") + ops.cast(bias, "float32")  # (B, B)
    weights = ops.cast(both, logits.dtype)
    sign = 2.0 * ops.eye(ops.shape(logits)[0], dtype=logits.dtype) - 1.0
    wrong = -ops.log_sigmoid(sign * logits) * weights[:, None] * weights[None, :]
    return ops.sum(wrong) / ops.maximum(ops.sum(weights), 1.0)
