"""Frozen towers are asked once for each content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.config import EncoderConfig, ImageTowerConfig, TextTowerConfig
from mim_keras.encoders.content import ContentReader, ContentTable
from mim_keras.encoders.feature_cache import FeatureCache
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from tests.mim_keras.layer_harness import HALVES, half_precision
from tests.mim_keras.test_backbones import bert, word_pieces
from tests.tiny_encoder import tiny_encoder

TITLES = ["red mug", "blue lamp", "green rug", "", "red lamp"]


@pytest.fixture
def encoder() -> tuple[ItemEncoder, TextReader]:
    return tiny_encoder()


def table(encoder: tuple[ItemEncoder, TextReader], titles: list[str]) -> ContentTable:
    model, words = encoder
    nothing = np.array([b""] * len(titles), object)
    return ContentTable(
        ContentReader(model.config, words), nothing, np.array([t.encode() for t in titles], object), nothing
    )


def test_only_new_contents_are_asked_for(
    encoder: tuple[ItemEncoder, TextReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    features = ContentTable.features

    def counted(self: ContentTable, model: ItemEncoder, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        asked.append(len(self) if rows is None else len(rows))
        return features(self, model, rows)

    monkeypatch.setattr(ContentTable, "features", counted)
    model, _ = encoder
    for titles, new in ((TITLES[:3], 3), (TITLES[:3], 0), (TITLES[::-1], 2), (["green rug", "green rug"], 0)):
        own = table(encoder, titles)
        asked.clear()
        found = FeatureCache(tmp_path).features(own, model)
        assert sum(asked) == new
        for name, values in features(own, model).items():
            np.testing.assert_allclose(found[name], values, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_seed_or_another_vector_is_no_other_tower(tmp_path: Path) -> None:
    preset = str(tmp_path / "bert")
    bert().save_to_preset(preset)
    word_pieces().save_to_preset(preset)
    config = EncoderConfig(
        text=TextTowerConfig(preset=preset, max_tokens=8), image=ImageTowerConfig(size=16, widths=(), colours=True)
    )
    kept = tmp_path / "kept"
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)  # which the state of a dropout's draws follows
        words, _ = TextReader.fit(config, [])
        model = ItemEncoder(replace(config, vector=("joint", "text_features")[:seed]), words)
        model.build()
        FeatureCache(kept).features(table((model, words), ["a b", "ab"]), model)
        assert len(list(kept.iterdir())) == 1


def test_other_towers_are_asked_anew_and_heads_do_not_matter(
    encoder: tuple[ItemEncoder, TextReader], tmp_path: Path
) -> None:
    model, _ = encoder
    own = table(encoder, TITLES)
    before = FeatureCache(tmp_path).features(own, model)
    for variable in model.text_head.trainable_variables:
        variable.assign(variable + 1.0)
    FeatureCache(tmp_path).features(own, model)
    assert len(list(tmp_path.iterdir())) == 1
    assert model.text_tower is not None
    for variable in model.text_tower.trainable_variables:
        variable.assign(variable + 0.1)
    after = FeatureCache(tmp_path).features(own, model)
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.allclose(before["text_features"], after["text_features"])


@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_is_kept_as_it_was_said(kind: str, tmp_path: Path) -> None:
    with half_precision(kind):
        model, words = tiny_encoder()
        own = table((model, words), TITLES)
        first, second = (FeatureCache(tmp_path).features(own, model) for _ in range(2))
        said = own.features(model)
        views = [own.encode(model, features)["vector"] for features in (first, second)]
    for name, values in first.items():
        assert values.dtype == second[name].dtype == np.float32
        np.testing.assert_array_equal(values, second[name])
        np.testing.assert_allclose(values, np.asarray(said[name], np.float32), rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(*views)
    model, words = tiny_encoder()
    FeatureCache(tmp_path).features(table((model, words), TITLES), model)
    assert len(list(tmp_path.iterdir())) == 2  # in whole precision the towers say something else
