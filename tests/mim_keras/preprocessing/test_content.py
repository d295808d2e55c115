"""Images and texts as the encoder reads them."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mim_keras.config import EmbeddingTowerConfig, preset
from mim_keras.preprocessing import content as content_module
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor, join_title_and_text, map_features
from mim_keras.preprocessing.image import ImagePreprocessor
from mim_keras.preprocessing.text import train_wordpiece_vocabulary
from tests.mim_keras import tiny


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(("height", "width"), [(5, 9), (48, 20), (100, 300), (16, 200)])
@pytest.mark.parametrize("crop", [False, True])
def test_images_of_any_size_are_filtered_as_pillow_does(height: int, width: int, crop: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image, side = Image.fromarray(pixels), min(height, width)
    if crop:
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    expected = image.resize((16, 16), Image.Resampling.BILINEAR)
    found = ImagePreprocessor(16, crop_to_aspect_ratio=crop)(tf.constant([png(pixels)])).numpy()[0]
    np.testing.assert_allclose(found, np.asarray(expected), atol=1)


def test_what_is_missing_is_masked() -> None:
    preprocessor, _ = ContentPreprocessor.fit(preset("tiny").encoder, ["red lamp"])
    image = png(np.full((4, 4, 3), 200, np.uint8))
    content = preprocessor(tf.constant([image, b""]), tf.constant(["", "red lamp"]), tf.constant(["", ""]))
    np.testing.assert_array_equal(content["image_mask"], [1, 0])
    np.testing.assert_array_equal(content["text_mask"], [0, 1])
    np.testing.assert_allclose(content["image"][0], 200 / 255, rtol=1e-6)
    assert not np.any(content["image"][1])
    assert content["token_mask"][0].numpy().sum() < content["token_mask"][1].numpy().sum()


def test_a_catalogue_is_encoded_in_batches_of_similar_length_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, preprocessor = tiny.tiny_encoder()
    titles = ["red lamp blue mug red", "", "mug", "blue lamp mug", "red lamp"]
    columns = [np.array([b""] * 5, object), np.array(titles, object), np.array([""] * 5, object)]
    expected = encoder(preprocessor(*map(tf.constant, columns)))
    monkeypatch.setattr(content_module, "MAX_BATCH_TOKENS", 2 * preset("tiny").encoder.text.max_tokens)
    content = ContentDataset(preprocessor, *columns)
    of_features = map_features(encoder.encode_features, content.map(encoder.towers), batch=2)
    for found in (content.map(encoder), of_features):
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-5)
    some = content.map(encoder.towers, np.array([3, 1]))
    np.testing.assert_allclose(some["text_features"], content.map(encoder.towers)["text_features"][[1, 3]], atol=1e-6)


def test_hashes_are_of_all_that_is_read() -> None:
    _, preprocessor = tiny.tiny_encoder()
    images = np.array([png(np.full((16, 16, 3), shade, np.uint8)) for shade in (1, 1, 2, 1)], object)
    titles, texts = np.array(["mug", "mug", "mug", "lamp"], object), np.array([""] * 4, object)
    hashes = ContentDataset(preprocessor, images, titles, texts).content_hashes()
    assert hashes[0] == hashes[1]
    assert len({*hashes.tolist()}) == 3


def test_the_title_is_the_first_line() -> None:
    titles, texts = ["red mug", "red\nlamp", ""], ["a mug\n#by:ann", "a lamp", ""]
    joined = [text.decode() for text in join_title_and_text(tf.constant(titles), tf.constant(texts)).numpy()]
    assert joined == ["red mug\na mug\n#by:ann", "red lamp\na lamp", "\n"]


def test_content_that_does_not_belong_together_is_refused() -> None:
    towers = (EmbeddingTowerConfig("clip", 3),)
    preprocessor, _ = ContentPreprocessor.fit(replace(preset("tiny").encoder, embeddings=towers), ["red mug"])
    one = {"image": [b""], "title": ["red mug"], "text": [""]}
    with pytest.raises(ValueError, match="embeddings must have clip, as the encoder's settings do; received none"):
        preprocessor(**one)
    with pytest.raises(ValueError, match=r"embedding clip must have shape \(batch, 3\); received \(1, 5\)"):
        preprocessor(**one, embeddings={"clip": np.ones((1, 5))})
    with pytest.raises(ValueError, match="content must have one length; received .*'title': 2"):
        preprocessor(**{**one, "title": ["red mug", "lamp"]}, embeddings={"clip": np.ones((1, 3))})


def test_a_catalogue_without_texts_has_the_special_tokens_alone() -> None:
    assert train_wordpiece_vocabulary(["", " \n"], 100) == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    preprocessor, _ = ContentPreprocessor.fit(preset("tiny").encoder, ["", ""])
    assert preprocessor(image=[b""], title=["mug"], text=[""])["text_mask"].numpy().tolist() == [1.0]
