"""A histogram of an image's colours."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import check_rank

HSV_BINS = (8, 3, 4)  # hue, saturation, value
HISTOGRAM_SIZE = 24  # images are averaged down to 24 to 47 pixels a side


@keras.saving.register_keras_serializable("mim")
class ColorHistogram(keras.layers.Layer):
    """√ of the share of each colour in an image, by 8 hues, 3 saturations and 4 values; L2-normalised, no gradient.

    Call arguments:
        images: float [B, size, size, 3] in 0..1.

    Returns:
        float [B, 96].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import ColorHistogram
        >>> histogram = ColorHistogram()(np.ones((1, 24, 24, 3), "float32"))
        >>> histogram.shape, int(np.argmax(histogram))  # white: hue 0, saturation 0, value 3
        (TensorShape([1, 96]), 3)
    """

    output_dim = math.prod(HSV_BINS)

    def build(self, images_shape: Any) -> None:
        check_rank(self, "images", images_shape, "batch height width channels")

    def call(self, images: Any) -> Any:
        factor = max(1, images.shape[1] // HISTOGRAM_SIZE)
        images = ops.cast(images, "float32")
        if factor > 1:
            images = ops.average_pool(images, factor, strides=factor)
        hsv = ops.image.rgb_to_hsv(ops.clip(images, 0.0, 1.0))
        bin_index: Any = 0
        for channel, bins in enumerate(HSV_BINS):
            bin_of_channel = ops.cast(ops.clip(ops.floor(hsv[..., channel] * bins), 0, bins - 1), "int32")
            bin_index = bin_index * bins + bin_of_channel
        pixels = ops.reshape(bin_index, (-1, bin_index.shape[1] * bin_index.shape[2]))
        shares = ops.mean(ops.one_hot(pixels, self.output_dim, dtype="float32"), axis=1)
        return ops.cast(ops.stop_gradient(ops.sqrt(shares)), self.compute_dtype)

    def compute_output_shape(self, images_shape: Any) -> tuple:
        return (images_shape[0], self.output_dim)
