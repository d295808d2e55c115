"""One head for several labels, whose experts each label weighs by a gate of its own (MMoE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import Configurable, check_rank
from mim_keras.layers.cross_deep_head import build_crosses, cross, make_crosses


@keras.saving.register_keras_serializable("mim")
class MultiGateHead(Configurable, keras.layers.Layer):
    """logit_k = w_k [cross(x); Σ_e gate_k(x)_e · expert_e(x)] + b_k.

    An expert is a stack of ReLU dense layers; a gate is a softmax over the experts.  The cross layers (DCN-v2) are
    shared by all labels.

    Args:
        labels: Number of logits.
        experts: Number of experts.
        cross_layers: Number of cross layers; 0: the features themselves.
        hidden: Units of the dense layers of an expert, at least one.
        dropout: Rate after each dense layer.
        projection_dim: Rank of the cross layers.

    Call arguments:
        features: float [B, D].

    Returns:
        Logits, float [B, labels].

    Raises:
        ValueError: `hidden` is empty.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import MultiGateHead
        >>> MultiGateHead(labels=2, experts=3, cross_layers=1, hidden=(16,))(np.ones((5, 20), "float32")).shape
        TensorShape([5, 2])

    Source: Ma et al. 2018, "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts".
    """

    config_names = ("labels", "experts", "cross_layers", "hidden", "dropout", "projection_dim")

    def __init__(
        self,
        labels: int,
        experts: int,
        cross_layers: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        projection_dim: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not hidden:
            raise ValueError("hidden must have at least one layer; received none. Give e.g. (64,).")
        self.labels, self.experts, self.cross_layers = labels, experts, cross_layers
        self.hidden, self.dropout, self.projection_dim = tuple(hidden), dropout, projection_dim
        dtype = self.dtype_policy
        self.crosses = make_crosses(cross_layers, projection_dim, dtype)
        # The experts of a layer are one product: [B, E, in] × [E, in, out].
        self.expert_layers = [
            keras.layers.EinsumDense(
                "bi,iej->bej" if n == 0 else "bei,eij->bej",
                output_shape=(experts, units),
                bias_axes="ej",
                activation="relu",
                kernel_initializer="he_normal",
                dtype=dtype,
                name=f"experts_{n}",
            )
            for n, units in enumerate(self.hidden)
        ]
        self.dropouts = [keras.layers.Dropout(dropout, dtype=dtype) for _ in self.hidden]
        self.gates = keras.layers.EinsumDense("bi,ike->bke", output_shape=(labels, experts), dtype=dtype, name="gates")
        self.logits = keras.layers.EinsumDense(
            "bki,ki->bk", output_shape=(labels,), bias_axes="k", dtype=dtype, name="logits"
        )

    def build(self, features_shape: Any) -> None:
        check_rank(self, "features", features_shape, "batch dim")
        batch, width = features_shape
        build_crosses(self.crosses, features_shape)
        shape: tuple[Any, ...] = features_shape
        for layer, units in zip(self.expert_layers, self.hidden, strict=True):
            layer.build(shape)
            shape = (batch, self.experts, units)
        self.gates.build(features_shape)
        self.logits.build((batch, self.labels, width + self.hidden[-1]))

    def call(self, features: Any, training: bool = False) -> Any:
        crossed, experts = cross(self.crosses, features), features
        for layer, dropout in zip(self.expert_layers, self.dropouts, strict=True):
            experts = dropout(layer(experts), training=training)
        mixed = ops.matmul(ops.softmax(self.gates(features), axis=-1), experts)  # [B, labels, units]
        shape = (ops.shape(features)[0], self.labels, features.shape[-1])
        crossed = ops.broadcast_to(crossed[:, None, :], shape)
        return self.logits(ops.concatenate([crossed, mixed], axis=-1))

    def compute_output_shape(self, features_shape: Any) -> tuple:
        return (features_shape[0], self.labels)
