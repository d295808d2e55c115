"""The encoder: missing modalities, parts of the item embedding, what is frozen, and presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mim_keras.config import (
    EmbeddingTowerConfig,
    EncoderConfig,
    ImageTowerConfig,
    LSATowerConfig,
    TextTowerConfig,
    preset,
)
from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentPreprocessor
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def test_missing_modalities_are_masked() -> None:
    encoder, _ = tiny.tiny_encoder()
    content = tiny.encoder_inputs()
    views = {name: numbers(values) for name, values in encoder(content).items()}
    np.testing.assert_allclose(np.linalg.norm(views["joint"], axis=1), np.arange(16) != 2, atol=1e-5)
    np.testing.assert_allclose(views["joint"][0], views["text"][0], atol=1e-5)  # text alone
    np.testing.assert_allclose(views["joint"][1], views["image"][1], atol=1e-5)  # image alone
    assert not np.any(views["text"][1])
    assert not np.any(views["image"][0])
    noisy = {**content, "image": content["image"] + (1 - content["image_mask"])[:, None, None, None]}
    np.testing.assert_allclose(numbers(encoder(noisy)["joint"]), views["joint"], atol=1e-6)


def test_each_part_of_an_item_embedding_counts_alike() -> None:
    config = replace(
        preset("tiny").encoder,
        lsa=LSATowerConfig(max_features=9, min_df=1, output_dim=3),
        item_embedding_parts=("joint", "text_features", "image_features"),
    )
    preprocessor, tables = ContentPreprocessor.fit(config, ["red mug #genre:old", "blue lamp #genre:new"] * 2)
    wide = ItemEncoder.from_settings(config, preprocessor, tables)
    last, rows = len(tables[0]), tiny.CONTENTS  # tags come last
    ids = np.tile(np.array([[1, 3, last], [2, 3, last - 1]], "int32"), (rows // 2, 1))
    content = {**tiny.encoder_inputs(), "term_ids": ids, "term_weights": np.ones(ids.shape, "float32")}
    found, features = numbers(wide(content)["embedding"]), {n: numbers(v) for n, v in wide.towers(content).items()}
    assert found.shape == (rows, wide.item_embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.arange(rows) != 2, atol=1e-3)
    tower = config.text.hidden_dim
    joint, text, image = numbers(wide(content)["joint"]), features["text_features"], features["image_features"]
    groups = [joint, unit(text[:, :tower]), text[:, tower : tower + 3], text[:, tower + 3 :], unit(image)]
    masks = [np.ones(rows), *[content["text_mask"]] * 3, content["image_mask"]]
    expected = np.concatenate([group * mask[:, None] for group, mask in zip(groups, masks, strict=True)], axis=1)
    np.testing.assert_allclose(found, unit(expected), atol=1e-3)
    cosines = [np.sum(group[4] * group[5]) for group in groups]
    assert np.sum(found[4] * found[5]) == pytest.approx(np.mean(cosines), abs=1e-3)
    sentence = numbers(wide.item_embedding(joint, features, ("joint", "sentence_features")))
    np.testing.assert_allclose(sentence[4], unit(np.concatenate([groups[0], groups[1]], axis=1))[4], atol=1e-4)


def test_a_ready_made_embedding_is_a_tower_beside_others_and_alone(tmp_path: Path) -> None:
    ready = (EmbeddingTowerConfig("clip", 4, "image"), EmbeddingTowerConfig("brand", 3))
    alone = EncoderConfig(
        embedding_dim=8,
        text=TextTowerConfig(layers=0),
        image=ImageTowerConfig(filters=()),
        embeddings=ready,
        item_embedding_parts=("joint", "image_features"),
    )
    beside = replace(preset("tiny").encoder, embeddings=ready)
    rng = np.random.default_rng(0)
    given = {"clip": rng.normal(size=(3, 4)).astype("float32"), "brand": rng.normal(size=(3, 3)).astype("float32")}
    given["clip"][0], given["brand"][1] = 0, 0
    for config in (alone, beside):
        encoder, preprocessor = tiny.tiny_encoder(config=config)
        content = {n: numbers(v) for n, v in preprocessor([b""] * 3, [""] * 3, [""] * 3, given).items()}
        np.testing.assert_array_equal(content["image_mask"], [0, 1, 1])
        np.testing.assert_array_equal(content["text_mask"], [1, 0, 1])
        found = {name: numbers(values) for name, values in encoder(content).items()}
        assert not found["image"][0].any()
        np.testing.assert_allclose(np.linalg.norm(found["joint"], axis=1), 1, atol=1e-4)
        scaled = {**content, "embedding_clip": 3 * content["embedding_clip"]}
        np.testing.assert_allclose(numbers(encoder(scaled)["joint"]), found["joint"], atol=1e-5)
        other = {**content, "embedding_clip": content["embedding_clip"][::-1].copy()}
        assert not np.allclose(numbers(encoder(other)["image"])[1:], found["image"][1:], atol=1e-3)
        encoder.save_to_preset(tmp_path)
        preprocessor.save_to_preset(tmp_path)
        again = ContentPreprocessor.from_preset(tmp_path)([b""] * 3, [""] * 3, [""] * 3, given)
        loaded = ItemEncoder.from_preset(tmp_path)({n: numbers(v) for n, v in again.items()})
        np.testing.assert_allclose(numbers(loaded["embedding"]), found["embedding"], atol=1e-6)
    assert found["embedding"].shape[1] == 16
    assert alone.has_modality("text")


def test_an_adapter_starts_as_stage_1_and_is_trained_alone(tmp_path: Path) -> None:
    plain, _ = tiny.tiny_encoder()
    with pytest.raises(ValueError, match=r"Set encoder\.residual_adapters and train stage 1 again"):
        plain.freeze_all_but_adapters()
    encoder, _ = tiny.tiny_encoder(config=replace(preset("tiny").encoder, residual_adapters=True))
    assert len(encoder.trainable_variables) == len(plain.trainable_variables)
    content = tiny.encoder_inputs()
    before = numbers(encoder(content)["joint"])
    encoder.freeze_all_but_adapters()
    assert {variable.path.split("/")[-2] for variable in encoder.trainable_variables} == {
        f"{view}_adapter" for view in ("image", "text", "joint")
    }
    np.testing.assert_allclose(numbers(encoder(content)["joint"]), before, atol=1e-6)
    kernel = np.random.default_rng(0).normal(size=(16, 16)).astype("float32")
    encoder.adapters["joint"].kernel.assign(kernel)
    views = numbers(encoder(content)["joint"])
    np.testing.assert_allclose(views, unit(before + before @ kernel), atol=1e-4)
    encoder.save_to_preset(tmp_path)
    np.testing.assert_allclose(numbers(ItemEncoder.from_preset(tmp_path)(content)["joint"]), views, atol=1e-6)


def test_features_computed_before_give_the_same_views() -> None:
    encoder, _ = tiny.tiny_encoder()
    content = tiny.encoder_inputs()
    whole, parts = encoder(content), encoder.encode_features(encoder.towers(content))
    for name, values in whole.items():
        np.testing.assert_allclose(numbers(parts[name]), numbers(values), atol=1e-6)
