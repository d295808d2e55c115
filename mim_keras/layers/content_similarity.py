"""Cosine similarity of a target and the behaviours of a history."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from mim_keras.layers.history_encoder import EncodedHistory
from mim_keras.layers.target_encoder import EncodedTarget
from mim_keras.ops.fused_attention import pairwise_dot


class Similarity(NamedTuple):
    """Cosine similarities [B, L], and where both sides have content, bool [B, L]."""

    cosine: Any
    mask: Any


def content_similarity(target: EncodedTarget, history: EncodedHistory, precomputed: Any = None) -> Similarity:
    """Similarities of targets and behaviours.

    Args:
        target: B targets.
        history: H histories; H is B or 1.
        precomputed: Cosine similarities [B, L], where they are known; else they are computed.
    """
    if precomputed is None:
        cosine = pairwise_dot(target.embedding, history.embedding)
    else:
        cosine = ops.cast(precomputed, target.embedding.dtype)
    return Similarity(cosine, ops.logical_and(history.content_mask, target.has_content[:, None]))
