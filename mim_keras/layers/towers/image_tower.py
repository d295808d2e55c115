"""Images to features: a small convolutional network, or a pretrained backbone; and a colour histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import ImageTowerConfig
from mim_keras.layers.base import Configurable, check_rank
from mim_keras.layers.towers.color_histogram import ColorHistogram
from mim_keras.layers.towers.pretrained import load_image_backbone, pool_features


@keras.saving.register_keras_serializable("mim")
class ImageTower(Configurable, keras.layers.Layer):
    """Images → features: stride-2 convolutions with mean and maximum pooling, or a pooled backbone.

    A colour histogram may be added, or be the only feature.

    Args:
        image_size: Pixels a side.
        filters: Channels of each convolution; (): none.
        backbone: A model of images [B, size, size, 3] that replaces the convolutions; None: none.
        scale, offset: Map pixels of 0..255 to the backbone's input range.
        color_histogram: Whether to add a `ColorHistogram`.

    Call arguments:
        images: float [B, size, size, 3] in 0..1.

    Returns:
        float [B, output_dim].

    Attributes:
        output_dim: Width of the features.
        feature_groups: Widths of the groups of features, each L2-normalised on its own in an item embedding.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import ImageTower
        >>> ImageTower(16, filters=(4, 8), color_histogram=True)(np.ones((2, 16, 16, 3), "float32")).shape
        TensorShape([2, 112])
    """

    config_names = ("image_size", "filters", "scale", "offset", "color_histogram")
    config_parts = ("backbone",)

    def __init__(
        self,
        image_size: int,
        filters: Sequence[int] = (),
        backbone: Any = None,
        scale: Any = 1 / 127.5,
        offset: Any = -1.0,
        color_histogram: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not (filters or backbone is not None or color_histogram):
            raise ValueError("an ImageTower needs filters, a backbone or color_histogram; received none. Set one.")
        self.image_size, self.filters, self.backbone = image_size, tuple(filters), backbone
        self.scale, self.offset, self.color_histogram = scale, offset, color_histogram
        self.convolutions, self.norms = [], []
        dim = 0
        if backbone is not None:
            dim = int(pool_features(backbone.output).shape[-1])
        elif filters:
            dim, dtype = 2 * self.filters[-1], self.dtype_policy
            self.convolutions = [
                keras.layers.Conv2D(channels, 3, strides=2, padding="same", dtype=dtype) for channels in self.filters
            ]
            self.norms = [keras.layers.LayerNormalization(dtype=dtype) for _ in self.filters]
        self.histogram = ColorHistogram(dtype=self.dtype_policy) if color_histogram else None
        self.feature_groups = [*([dim] if dim else []), *([ColorHistogram.output_dim] if color_histogram else [])]
        self.output_dim = sum(self.feature_groups)

    @classmethod
    def from_settings(cls, config: ImageTowerConfig, **kwargs: Any) -> ImageTower:
        """The tower of these settings; loads the weights of a preset."""
        options: dict[str, Any] = {"filters": config.filters}
        if config.preset:
            backbone, scale, offset = load_image_backbone(config.preset, config.image_size, kwargs.get("dtype"))
            options = {"backbone": backbone, "scale": _plain(scale), "offset": _plain(offset)}
        return cls(config.image_size, color_histogram=config.color_histogram, **options, **kwargs)

    def build(self, images_shape: Any) -> None:
        check_rank(self, "images", images_shape, "batch height width channels")
        shape = (None, self.image_size, self.image_size, 3)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)

    def call(self, images: Any) -> Any:
        parts = []
        if self.backbone is not None:
            pixels = images * 255.0 * np.asarray(self.scale) + np.asarray(self.offset)
            parts.append(ops.cast(pool_features(self.backbone(pixels)), self.compute_dtype))
        elif self.convolutions:
            x = images * 2.0 - 1.0
            for convolution, norm in zip(self.convolutions, self.norms, strict=True):
                x = ops.gelu(norm(convolution(x)))
            parts += [ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))]  # (B, filters) each
        if self.histogram is not None:
            parts.append(self.histogram(images))
        return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def compute_output_shape(self, images_shape: Any) -> tuple:
        return (images_shape[0], self.output_dim)


def _plain(values: Any) -> Any:
    return np.asarray(values).tolist()
