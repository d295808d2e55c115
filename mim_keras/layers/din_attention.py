"""DIN's attention: an MLP weighs each behaviour against the target."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import MaskConsumingLayer, check_rank
from mim_keras.ops.fused_attention import weighted_sum


@keras.saving.register_keras_serializable("mim")
class DINAttention(MaskConsumingLayer):
    """a_k = w·φ(W [q; k; q − k; q ∘ k] + b) + c; u = Σ a_k k, with q = W_q e_t, k = W_k e_k; no softmax.

    W [q; k; q − k; q ∘ k] equals q A + k (C + diag(q) D): one product for each target, and one of the history with a
    matrix of that target, instead of an MLP over four times the width for every behaviour.  φ is PReLU.

    Args:
        dim: Width of q, k and the output.
        hidden_dim: Units of the MLP.

    Call arguments:
        target: e_t, float [B, D_t].
        history: e_k, float [H, L, D]; H is B, or 1 for one history shared by all targets.
        history_mask: bool [H, L], true at behaviours; None where all positions count.

    Returns:
        u, float [B, dim]; zeros where the history is empty.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import DINAttention
        >>> DINAttention(8)(np.ones((3, 16), "float32"), np.ones((3, 50, 16), "float32")).shape
        TensorShape([3, 8])

    Source: DIN (1706.06978), section 4.3, with PReLU instead of Dice.
    """

    config_names = ("dim", "hidden_dim")

    def __init__(self, dim: int, hidden_dim: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden_dim = dim, hidden_dim
        self.query, self.key = (
            keras.layers.Dense(dim, use_bias=False, dtype=self.dtype_policy, name=name) for name in ("query", "key")
        )
        self.target_dense = keras.layers.Dense(hidden_dim, dtype=self.dtype_policy, name="target_dense")
        self.activation = keras.layers.PReLU(shared_axes=[1], dtype=self.dtype_policy, name="activation")
        self.output_dense = keras.layers.Dense(
            1, kernel_initializer="random_normal", dtype=self.dtype_policy, name="output_dense"
        )

    def build(self, target_shape: Any, history_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch dim")
        check_rank(self, "history", history_shape, "batch length dim")
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.target_dense.build((target_shape[0], self.dim))
        shape = (self.dim, self.hidden_dim)
        self.key_kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="key_kernel")
        self.interaction_kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="interaction_kernel")
        self.activation.build((None, None, self.hidden_dim))
        self.output_dense.build((None, None, self.hidden_dim))

    def call(self, target: Any, history: Any, history_mask: Any = None) -> Any:
        query, key = self.query(target), self.key(history)
        kernel_of_target = self.key_kernel + query[:, :, None] * self.interaction_kernel  # (B, dim, hidden)
        x = self.target_dense(query)[:, None, :] + ops.matmul(key, kernel_of_target)  # (B, L, hidden)
        attention = self.output_dense(self.activation(x))[..., 0]  # (B, L)
        if history_mask is not None:
            attention = attention * ops.cast(history_mask, attention.dtype)
        return weighted_sum(attention[:, None, :], key)[:, 0]

    def compute_output_shape(self, target_shape: Any, history_shape: Any) -> tuple:
        return (target_shape[0], self.dim)
