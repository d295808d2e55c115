"""An image tower: a small convolutional one from scratch, or a pretrained backbone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mim_keras.config import ImageTowerConfig, from_mapping, to_mapping
from mim_keras.encoders.backbones import picture_backbone, pooled


@keras.saving.register_keras_serializable("mim")
class ImageTower(keras.layers.Layer):
    """Pictures → features: halving convolution blocks, then the mean and the maximum over the picture; or what a
    preset's backbone makes of them (`backbones.pooled`).

    Args:
        config: Size of the pictures, and channels of each block or the preset.

    Call takes pictures in 0..1, [B, size, size, 3], and returns features [B, width].

    Attributes:
        width: Of the features.
    """

    def __init__(self, config: ImageTowerConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.backbone, self.convolutions, self.norms = None, [], []
        if config.preset:
            self.backbone, self.scale, self.offset = picture_backbone(config.preset, config.size)
            self.width = int(pooled(self.backbone.output).shape[-1])
            return
        self.width = 2 * config.widths[-1]
        self.convolutions = [keras.layers.Conv2D(width, 3, strides=2, padding="same") for width in config.widths]
        self.norms = [keras.layers.LayerNormalization() for _ in config.widths]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (None, self.config.size, self.config.size, 3)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)

    def call(self, images: Any) -> Any:
        if self.backbone is not None:
            return pooled(self.backbone(images * 255.0 * np.asarray(self.scale) + np.asarray(self.offset)))
        x = images * 2.0 - 1.0
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = keras.ops.gelu(norm(convolution(x)))
        # (B, width), (B, width)
        return keras.ops.concatenate([keras.ops.mean(x, axis=(1, 2)), keras.ops.max(x, axis=(1, 2))], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        return (input_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": to_mapping(self.config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ImageTower:
        return cls(from_mapping(ImageTowerConfig, config.pop("config")), **config)
