"""Fusion of the image view and the text view."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import check_rank
from mim_keras.ops.normalization import l2_normalize


@keras.saving.register_keras_serializable("mim")
class GatedFusion(keras.layers.Layer):
    """joint = Σ softmax(g·v)_m v_m over the modalities m that an item has, L2-normalised, with a learned gate g.

    Call arguments:
        image, text: L2-normalised views, float [B, d].
        has_image, has_text: 1 where an item has the modality, float [B].

    Returns:
        float [B, d]; zeros where an item has neither.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import GatedFusion
        >>> image, text = np.array([[1.0, 0.0]], "float32"), np.array([[0.0, 1.0]], "float32")
        >>> GatedFusion()(image, text, has_image=np.ones(1), has_text=np.zeros(1)).numpy().tolist()
        [[1.0, 0.0]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = keras.layers.Dense(1, use_bias=False, dtype=self.dtype_policy, name="gate")

    def build(self, image_shape: Any, text_shape: Any) -> None:
        check_rank(self, "image", image_shape, "batch dim")
        check_rank(self, "text", text_shape, "batch dim")
        self.gate.build(image_shape)

    def call(self, image: Any, text: Any, has_image: Any, has_text: Any) -> Any:
        gates = ops.cast(ops.stack([self.gate(image), self.gate(text)], axis=1), "float32")  # (B, 2, 1)
        mask = ops.stack([ops.reshape(ops.cast(has, "float32"), (-1, 1)) for has in (has_image, has_text)], axis=1)
        weights = ops.softmax(ops.where(mask > 0, gates, -1e9), axis=1)
        weights = ops.cast(weights, image.dtype) * ops.cast(mask, image.dtype)
        return l2_normalize(ops.sum(weights * ops.stack([image, text], axis=1), axis=1))

    def compute_output_shape(self, image_shape: Any, text_shape: Any) -> tuple:
        return tuple(image_shape)
