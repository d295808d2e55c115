"""ID interest by DIN's own activation unit: a small network weighs each click against the target."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.interest.masked import sums


@keras.saving.register_keras_serializable("mim")
class ActivationUnit(keras.layers.Layer):
    """a_k = w·φ(W [q; k; q − k; q ∘ k] + b) + c; u = Σ a_k k, with q = W_q e_t, k = W_k e_k; no softmax.

    W [q; k; q − k; q ∘ k] is q A + k (C + diag(q) D): one term for each target, and one product of a history with a
    matrix of the target's own, instead of a network over four times the width for every click.  φ is PReLU.

    Args:
        dim: Width of q and k.
        hidden: Width of the small network.

    Call:
        target: e_t, [B, D].
        history: e_k, [H, L, D']; H is B, or 1 for one history shared by all targets.
        present: True at real positions, bool [H, L].
        Returns u, [B, dim]; zeros where a history is empty.

    Source: DIN (1706.06978), section 4.3, with PReLU in the place of Dice.
    """

    def __init__(self, dim: int, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden = dim, hidden
        self.query, self.key = (keras.layers.Dense(dim, use_bias=False) for _ in range(2))
        self.of_target = keras.layers.Dense(hidden)

    def build(self, target_shape: tuple, history_shape: tuple, present_shape: tuple) -> None:
        self.query.build(target_shape)
        self.key.build(history_shape)
        self.of_target.build((target_shape[0], self.dim))
        self.of_click = self.add_weight(shape=(self.dim, self.hidden), initializer="glorot_uniform", name="of_click")
        self.of_both = self.add_weight(shape=(self.dim, self.hidden), initializer="glorot_uniform", name="of_both")
        self.slope = self.add_weight(shape=(self.hidden,), initializer="zeros", name="slope")
        self.weight = self.add_weight(shape=(self.hidden,), initializer="random_normal", name="weight")
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(self, target: Any, history: Any, present: Any) -> Any:
        query, key = self.query(target), self.key(history)
        own = self.of_click + query[:, :, None] * self.of_both  # (B, dim, hidden)
        x = self.of_target(query)[:, None, :] + ops.matmul(key, own)  # (B, L, hidden)
        x = ops.maximum(x, 0) + self.slope * ops.minimum(x, 0)
        activity = ops.matmul(x, self.weight[:, None])[..., 0] + self.bias  # (B, L)
        return sums((activity * ops.cast(present, activity.dtype))[:, None, :], key)[:, 0]

    def compute_output_shape(self, target_shape: tuple, history_shape: tuple, present_shape: tuple) -> tuple:
        return (target_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "hidden": self.hidden}
