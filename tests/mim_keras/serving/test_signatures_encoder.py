"""The exported encoder serves what the model computes, and the next stage loads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import EmbeddingTowerConfig, LSATowerConfig, preset
from mim_keras.serving.assets import METADATA
from mim_keras.serving.signatures_encoder import ENCODER_FOLDER, export_encoder, load_encoder
from mim_keras.serving.warmup import WARMUP_FILE
from tests.mim_keras import tiny

TITLES, TEXTS = ["red mug", "blue lamp", "red\nlamp", ""], ["a mug\n#by:ann", "\n#by:bo", "a lamp", ""]
VIEW = LSATowerConfig(max_features=50, min_df=1, output_dim=3)
WIDE = replace(
    preset("tiny").encoder,
    item_embedding_parts=("joint", "text_features", "image_features"),
    lsa=VIEW,
    extra_lsa_towers=(
        replace(VIEW, field="line 1", max_tags=0),
        replace(VIEW, field="title", char_ngrams=True, max_tags=0),
    ),
    image=replace(preset("tiny").encoder.image, color_histogram=True),
)


def images() -> list[bytes]:
    pixels = np.repeat(np.eye(4, 3, dtype=np.uint8) * 200, 6, axis=0)[:, None].repeat(24, axis=1)  # flat colours
    image = tf.io.encode_png(pixels).numpy()
    return [image, b"", image, b""]


@pytest.mark.parametrize("config", [preset("tiny").encoder, WIDE], ids=["joint", "parts"])
def test_what_is_served_is_what_is_computed(config: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "TEXTS", [f"{title}\n{text}" for title, text in zip(TITLES, TEXTS, strict=True)])
    encoder, preprocessor = tiny.tiny_encoder(config=config)  # type: ignore[arg-type]
    content = preprocessor(images(), TITLES, TEXTS)
    assert content["text_mask"].numpy().tolist() == [1, 1, 1, 0]
    expected = encoder(content)["embedding"].numpy()
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), [1, 1, 1, 0], atol=1e-4)
    digest = export_encoder(encoder, preprocessor, tmp_path / "1")
    metadata = json.loads((tmp_path / "1" / METADATA).read_text())
    assert metadata["dimension"] == expected.shape[1] == encoder.item_embedding_dim
    assert metadata["version"] == digest[:12]
    assert (tmp_path / "1" / WARMUP_FILE).is_file()
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    given = {"image": tf.constant(images()), "title": tf.constant(TITLES), "text": tf.constant(TEXTS)}
    answer = served["serving_default"](**given)
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    assert {*answer["encoder_version"].numpy().tolist()} == {digest[:12].encode()}
    example = tf.train.Example()
    for name, value in (("item_id", b"i1"), ("title", TITLES[1].encode()), ("text", TEXTS[1].encode())):
        example.features.feature[name].bytes_list.value.append(value)
    answer = served["embed_examples"](examples=tf.constant([example.SerializeToString()]))
    assert answer["item_id"].numpy().tolist() == [b"i1"]
    np.testing.assert_allclose(answer["embedding"], expected[[1]], atol=1e-5)
    loaded, own = load_encoder(tmp_path / "1" / ENCODER_FOLDER)
    np.testing.assert_array_equal(loaded(own(images(), TITLES, TEXTS))["embedding"], expected)
    # what LSA knows is not trained, neither before saving nor after
    for one in (encoder, loaded):
        assert not any(weight is tower.table for tower in one.lsa_towers for weight in one.trainable_variables)


def test_a_ready_made_embedding_is_an_input_of_its_name(tmp_path: Path) -> None:
    config = replace(preset("tiny").encoder, embeddings=(EmbeddingTowerConfig("clip", 4, "image"),))
    encoder, preprocessor = tiny.tiny_encoder(config=config)
    clip = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    expected = encoder(preprocessor([b""] * 2, ["mug"] * 2, [""] * 2, {"clip": clip}))["embedding"].numpy()
    export_encoder(encoder, preprocessor, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    strings = {"image": tf.constant([b""] * 2), "title": tf.constant(["mug"] * 2), "text": tf.constant([""] * 2)}
    answer = served["serving_default"](**strings, clip=tf.constant(clip))
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    example = tf.train.Example()
    example.features.feature["title"].bytes_list.value.append(b"mug")
    example.features.feature["clip"].float_list.value.extend(clip[1])
    answer = served["embed_examples"](examples=tf.constant([example.SerializeToString()]))
    np.testing.assert_allclose(answer["embedding"], expected[[1]], atol=1e-5)
