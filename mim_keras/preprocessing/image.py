"""Encoded images to pixels."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import keras_hub
import tensorflow as tf

from mim_keras.config import ImageTowerConfig
from mim_keras.layers.towers.pretrained import hugging_face_preprocessing


@dataclass(frozen=True)
class ImagePreprocessor:
    """JPEG or PNG → square images, resized as the image tower was trained to read them.

    Transparent parts of a PNG are laid on white.  BMP and the first frame of a GIF are read too.

    Attributes:
        image_size: Pixels a side.
        interpolation: Of `tf.image.resize`.
        antialias: Whether images that shrink are filtered.
        crop_to_aspect_ratio: Whether the centre is cropped to a square; else the image is stretched.

    Example:
        >>> import tensorflow as tf
        >>> from mim_keras.preprocessing.image import ImagePreprocessor
        >>> png = tf.io.encode_png(tf.zeros([4, 6, 3], tf.uint8))
        >>> ImagePreprocessor(8)(tf.stack([png, ""])).shape
        TensorShape([2, 8, 8, 3])
    """

    image_size: int
    interpolation: str = "bilinear"
    antialias: bool = True
    crop_to_aspect_ratio: bool = False

    @staticmethod
    def from_settings(config: ImageTowerConfig) -> ImagePreprocessor:
        """Of a preset, its own resizing; else stretched to a square."""
        size = config.image_size
        if not config.preset:
            return ImagePreprocessor(size)
        with suppress(ValueError, FileNotFoundError):  # a backbone saved without its preprocessing
            converter = keras_hub.layers.ImageConverter.from_preset(config.preset)
            if converter is not None:
                return ImagePreprocessor(
                    size, converter.interpolation, converter.antialias, converter.crop_to_aspect_ratio
                )
        stated = hugging_face_preprocessing(config.preset) or {}
        return ImagePreprocessor(size, crop_to_aspect_ratio=bool(stated.get("do_center_crop", False)))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Encoded images [B], "" for none → float32 [B, size, size, 3], integers 0 to 255; black for none."""
        shape = (self.image_size, self.image_size, 3)

        def decode(data: tf.Tensor) -> tf.Tensor:
            pixels = _decode_on_white(data)
            if self.crop_to_aspect_ratio:
                pixels = _crop_to_square(pixels)
            shrinks = tf.reduce_any(tf.shape(pixels)[:2] > self.image_size)
            # A filter changes nothing where an image grows, and takes twice the time.
            resized = tf.cond(
                tf.logical_and(shrinks, self.antialias),
                lambda: tf.image.resize(pixels, shape[:2], self.interpolation, antialias=True),
                lambda: tf.image.resize(pixels, shape[:2], self.interpolation),
            )
            return tf.ensure_shape(tf.cast(resized, tf.float32), shape)

        def decode_or_black(data: tf.Tensor) -> tf.Tensor:
            return tf.cond(tf.strings.length(data) > 0, lambda: decode(data), lambda: tf.zeros(shape))

        resized = tf.map_fn(decode_or_black, images, fn_output_signature=tf.TensorSpec(shape, tf.float32))
        return tf.clip_by_value(tf.round(resized), 0, 255)

    def to_plain(self) -> dict[str, Any]:
        """Settings as plain values, for `ImagePreprocessor(**values)`."""
        return asdict(self)


def _decode_on_white(data: tf.Tensor) -> tf.Tensor:
    """An encoded image → uint8 [height, width, 3]."""

    def png() -> tf.Tensor:
        pixels = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)
        color, alpha = pixels[..., :3], pixels[..., 3:]
        return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    is_png = tf.equal(tf.strings.substr(data, 0, 4), b"\x89PNG")
    return tf.cond(is_png, png, lambda: tf.io.decode_image(data, channels=3, expand_animations=False))


def _crop_to_square(pixels: tf.Tensor) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(pixels)[:2])
    side = tf.minimum(height, width)
    return tf.image.crop_to_bounding_box(pixels, (height - side) // 2, (width - side) // 2, side, side)
