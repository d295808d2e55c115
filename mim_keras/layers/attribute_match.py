"""Attribute match: how much of a history shares the target's brand, category, colour …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mim_keras.layers.attribute_embedding import NO_VALUE
from mim_keras.layers.base import MaskConsumingLayer, check_rank


@keras.saving.register_keras_serializable("mim")
class AttributeMatch(MaskConsumingLayer):
    """For each attribute, how many behaviours have a value that the target has: the share, and log(1 + count).

    Args:
        slots: How many codes each attribute has, in order.

    Call arguments:
        target: Codes of the targets' attributes, int [B, slots of all]; 0 is no value.
        history: The same of each behaviour, int [H, L, slots of all]; H is B or 1.
        history_mask: bool [H, L], true at behaviours; None: at all.

    Returns:
        float [B, 2 × attributes].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import AttributeMatch
        >>> history = np.array([[[1, 3], [2, 3], [0, 0]]])
        >>> match = AttributeMatch((1, 1))(np.array([[1, 3]]), history, history_mask=np.array([[True, True, False]]))
        >>> match.numpy().round(2).tolist()
        [[0.5, 1.0, 0.6899999976158142, 1.100000023841858]]

    Source: measured in docs/experiments.md.
    """

    config_names = ("slots",)

    def __init__(self, slots: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slots = tuple(slots)

    def build(self, target_shape: Any, history_shape: Any) -> None:
        check_rank(self, "target", target_shape, "batch slots")
        check_rank(self, "history", history_shape, "histories length slots")
        for name, shape in (("target", target_shape), ("history", history_shape)):
            if shape[-1] != sum(self.slots):
                raise ValueError(
                    f"AttributeMatch: `{name}` must have {sum(self.slots)} slots, those of all attributes; received "
                    f"{shape[-1]}. Give the codes of an ItemTable with these slots."
                )

    def call(self, target: Any, history: Any, history_mask: Any = None) -> Any:
        if history_mask is None:
            history_mask = ops.ones(ops.shape(history)[:2], "bool")
        counts, begin = [], 0
        for slots in self.slots:
            own = slice(begin, begin + slots)
            # Values of an item are unique, so that at most one pair of a value's slots is equal.
            wanted = ops.where(ops.equal(target[:, own], NO_VALUE), -1, target[:, own])
            equal = ops.equal(history[:, :, own, None], wanted[:, None, None, :])  # (B, L, slots, slots)
            shared = ops.logical_and(ops.any(equal, axis=(2, 3)), history_mask)
            counts.append(ops.sum(ops.cast(shared, "float32"), axis=1))
            begin += slots
        matched = ops.stack(counts, axis=1)  # (B, attributes)
        length = ops.sum(ops.cast(history_mask, "float32"), axis=1, keepdims=True)
        features = ops.concatenate([matched / ops.maximum(length, 1.0), ops.log(1.0 + matched)], axis=1)
        return ops.cast(features, self.compute_dtype)

    def compute_output_shape(self, target_shape: Any, history_shape: Any) -> tuple:
        return (target_shape[0], 2 * len(self.slots))
