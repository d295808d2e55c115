"""What all softmax attention of targets over histories has in common."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer
from mim_keras.ops.fused_attention import attention_scores, weighted_sum


class FoldedAttention(MaskConsumingLayer):
    """Base of attention whose projections are folded into the query and the output.

    q · (W_k e) = (q W_kᵀ) · e and Σ w (W_v e) = W_v Σ w e: one product for each target instead of one for each
    behaviour.  So an attention is three steps, and `InterestAttention` lets several attentions share the passes over a
    history between them:

    1. `project_query`: target [B, D_t] → queries [B, heads, D], compared with behaviours as they are.
    2. `attention_weights`: scores [B, heads, L] → weights [B, heads, L].
    3. `project_output`: weighted sums of behaviours [B, heads, D_v] → output [B, dim].

    Args:
        dim: Width of the output, all heads together.
        heads: Number of heads.

    Raises:
        ValueError: `dim` is not a multiple of `heads`.
    """

    config_names: tuple[str, ...] = ("dim", "heads")

    query_is_content = False  # whether the query is compared with content instead of ids and categories

    def __init__(self, dim: int, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads; received dim={dim}, heads={heads}. Change one of them.")
        self.dim, self.heads = dim, heads
        self.query, self.key, self.value = (
            keras.layers.Dense(dim, use_bias=False, dtype=self.dtype_policy, name=name)
            for name in ("query", "key", "value")
        )

    def project_query(self, target: Any) -> Any:
        head_dim = self.dim // self.heads
        query = self.query(target) / math.sqrt(head_dim)
        if self.heads == 1:
            return ops.matmul(query, ops.transpose(ops.cast(self.key.kernel, query.dtype)))[:, None, :]
        query = ops.reshape(query, (-1, self.heads, head_dim))
        return ops.einsum("bhw,dhw->bhd", query, self._split_heads(self.key))

    def attention_weights(self, scores: Any, similarity: Any, mask: Any) -> Any:
        raise NotImplementedError

    def project_output(self, context: Any) -> Any:
        if self.heads == 1:
            return self.value(context[:, 0])
        return ops.reshape(ops.einsum("bhd,dhw->bhw", context, self._split_heads(self.value)), (-1, self.dim))

    def _attend(self, target: Any, keys: Any, values: Any, similarity: Any, mask: Any) -> Any:
        """All three steps, for this attention alone."""
        if mask is None:
            mask = ops.ones(ops.shape(keys)[:2], "bool")
        scores = attention_scores(self.project_query(target), keys)  # (B, heads, L)
        return self.project_output(weighted_sum(self.attention_weights(scores, similarity, mask), values))

    def _split_heads(self, dense: keras.layers.Dense) -> Any:
        kernel = ops.cast(dense.kernel, self.compute_dtype)
        return ops.reshape(kernel, (-1, self.heads, self.dim // self.heads))  # (D, heads, head_dim)
