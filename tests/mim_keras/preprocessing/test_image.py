"""Pixels of encoded images."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from mim_keras.preprocessing.image import ImagePreprocessor


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_transparent_parts_are_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 255, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    image.putpixel((3, 0), (0, 0, 0, 128))
    found = ImagePreprocessor(4)(tf.constant([png(image)]))[0].numpy()
    assert found[2, 1].tolist() == [10, 20, 30]
    assert found[0, 3].tolist() == [127, 127, 127]
    assert found[0, 0].tolist() == [255, 255, 255]


def test_an_opaque_picture_and_a_missing_one() -> None:
    values = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    found = ImagePreprocessor(4)(tf.constant([png(Image.fromarray(values)), b""])).numpy()
    np.testing.assert_array_equal(found[0], values)
    assert not found[1].any()
