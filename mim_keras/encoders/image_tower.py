"""An image tower: a small convolutional one from scratch, or a pretrained backbone; and a picture's colours."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from mim_keras.config import ImageTowerConfig, from_mapping, to_mapping
from mim_keras.encoders.backbones import picture_backbone, pooled

_BINS = (8, 3, 4)  # of hue, saturation and value
_COARSE = 24  # pixels a side that colours are counted at, or up to twice as many


@keras.saving.register_keras_serializable("mim")
class ImageTower(keras.layers.Layer):
    """Pictures → features: halving convolution blocks, then the mean and the maximum over the picture; or what a
    preset's backbone makes of them (`backbones.pooled`).  Behind these, if asked for, the square root of how often each
    colour occurs, by eight hues, three saturations and four values.

    Args:
        config: Size of the pictures, and channels of each block or the preset.

    Call takes pictures in 0..1, [B, size, size, 3], and returns features [B, width].

    Attributes:
        width: Of the features.
        blocks: Widths of what they are made of.
    """

    def __init__(self, config: ImageTowerConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.backbone, self.convolutions, self.norms = None, [], []
        if config.preset:
            self.backbone, self.scale, self.offset = picture_backbone(config.preset, config.size)
            own = int(pooled(self.backbone.output).shape[-1])
        else:
            own = 2 * config.widths[-1] if config.widths else 0
        self.blocks = [*([own] if own else []), *([math.prod(_BINS)] if config.colours else [])]
        self.width = sum(self.blocks)
        if config.preset:
            return
        self.convolutions = [keras.layers.Conv2D(width, 3, strides=2, padding="same") for width in config.widths]
        self.norms = [keras.layers.LayerNormalization() for _ in config.widths]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (None, self.config.size, self.config.size, 3)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)

    def call(self, images: Any) -> Any:
        parts = [self._seen(images)] if self.backbone is not None or self.convolutions else []
        if self.config.colours:
            parts.append(keras.ops.cast(_colours(images), self.compute_dtype))
        return keras.ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def _seen(self, images: Any) -> Any:
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


def _colours(images: Any) -> Any:
    """√ of the share of each colour, float32 [B, bins], of length one, of pictures in 0..1, [B, size, size, 3]."""
    ops = keras.ops
    coarse = max(1, images.shape[1] // _COARSE)
    small = ops.average_pool(ops.cast(images, "float32"), coarse, strides=coarse) if coarse > 1 else images
    hsv = ops.image.rgb_to_hsv(ops.clip(ops.cast(small, "float32"), 0.0, 1.0))
    place: Any = 0
    for channel, bins in enumerate(_BINS):
        place = place * bins + ops.cast(ops.clip(ops.floor(hsv[..., channel] * bins), 0, bins - 1), "int32")
    counts = ops.one_hot(ops.reshape(place, (-1, place.shape[1] * place.shape[2])), math.prod(_BINS))
    return ops.stop_gradient(ops.sqrt(ops.mean(counts, axis=1)))
