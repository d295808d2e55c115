"""Pictures and texts as the encoder reads them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mim_keras.config import preset
from mim_keras.encoders import content as content_module
from mim_keras.encoders.content import ContentReader, ContentTable
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader


@pytest.fixture(scope="module")
def reader():
    config = preset("tiny").encoder
    return ContentReader(config, TextReader.fit(config, ["red lamp"])[0])


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(("height", "width"), [(5, 9), (48, 20), (100, 300), (16, 200)])
def test_pictures_of_any_size_are_filtered_as_pillow_does(reader, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    size = reader._size
    expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    found = reader.pictures(tf.constant([png(pixels)])).numpy()[0]
    np.testing.assert_allclose(found, np.asarray(expected), atol=1)


def test_what_is_missing_is_masked(reader):
    picture = png(np.full((4, 4, 3), 200, np.uint8))
    content = reader(tf.constant([picture, b""]), tf.constant(["", "red lamp"]), tf.constant(["", ""]))
    np.testing.assert_array_equal(content["image_mask"], [1, 0])
    np.testing.assert_array_equal(content["text_mask"], [0, 1])
    np.testing.assert_allclose(content["image"][0], 200 / 255, rtol=1e-6)
    assert not np.any(content["image"][1])
    assert content["token_mask"][0].numpy().sum() < content["token_mask"][1].numpy().sum()


def test_a_table_is_encoded_in_parts_of_like_length_and_comes_back_in_order(monkeypatch):
    config = preset("tiny").encoder
    words, _ = TextReader.fit(config, ["red lamp", "blue mug"])
    encoder = ItemEncoder(config, words)
    encoder.build()
    reader = ContentReader(config, words)
    titles = ["red lamp blue mug red", "", "mug", "blue lamp mug", "red lamp"]
    columns = [np.array([b""] * 5, object), np.array(titles, object), np.array([""] * 5, object)]
    expected = encoder(reader(*map(tf.constant, columns)))
    monkeypatch.setattr(content_module, "BATCH_TOKENS", 2 * config.text.max_tokens)
    found = ContentTable(reader, *columns).encode(encoder)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
