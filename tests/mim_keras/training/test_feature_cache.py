"""Features of frozen towers are computed once a content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.config import EncoderConfig, ImageTowerConfig, TextTowerConfig
from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor
from mim_keras.training.feature_cache import FeatureCache, towers_fingerprint
from tests.mim_keras import tiny
from tests.mim_keras.backend import HALVES, half_precision
from tests.mim_keras.layers.towers.presets import bert, word_pieces

TITLES = ["red mug", "blue lamp", "green rug", "", "red lamp"]
Encoder = tuple[ItemEncoder, ContentPreprocessor]


def dataset(encoder: Encoder, titles: list[str]) -> ContentDataset:
    empty = np.array([b""] * len(titles), object)
    return ContentDataset(encoder[1], empty, np.array([title.encode() for title in titles], object), empty)


def test_only_new_contents_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    original = ContentDataset.map

    def counted(self: ContentDataset, compute: Any, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        computed.append(len(self) if rows is None else len(rows))
        return original(self, compute, rows)

    monkeypatch.setattr(ContentDataset, "map", counted)
    encoder = tiny.tiny_encoder()
    for titles, new in ((TITLES[:3], 3), (TITLES[:3], 0), (TITLES[::-1], 2), (["green rug", "green rug"], 0)):
        content = dataset(encoder, titles)
        computed.clear()
        found = FeatureCache(tmp_path).get_or_compute(content, encoder[0])
        assert sum(computed) == new
        for name, values in original(content, encoder[0].towers).items():
            np.testing.assert_allclose(found[name], values, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_fingerprint_is_of_all_towers_and_of_nothing_else() -> None:
    encoder, _ = tiny.tiny_encoder()
    first = towers_fingerprint(encoder)
    again, _ = tiny.tiny_encoder()  # layers of other names
    assert towers_fingerprint(again) == first
    head = encoder.projection.get_layer("text_head").linear.bias
    head.assign(np.asarray(head) + 1)
    assert towers_fingerprint(encoder) == first
    for tower in (encoder.image_tower, encoder.text_tower):
        variable = tower.trainable_variables[0]
        variable.assign(np.asarray(variable) + 0.1)
        changed = towers_fingerprint(encoder)
        assert changed != first
        first = changed
    with half_precision():
        half, _ = tiny.tiny_encoder()
    assert towers_fingerprint(half) != towers_fingerprint(again)


def test_another_seed_another_item_embedding_and_frozen_towers_are_the_same_towers(tmp_path: Path) -> None:
    preset = str(tmp_path / "bert")
    bert().save_to_preset(preset)
    word_pieces().save_to_preset(preset)
    config = EncoderConfig(
        text=TextTowerConfig(preset=preset, max_tokens=8),
        image=ImageTowerConfig(image_size=16, filters=(), color_histogram=True),
    )
    found = set()
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)  # which the seed state of a dropout follows
        own = replace(config, item_embedding_parts=("joint", "text_features")[:seed])
        preprocessor, _ = ContentPreprocessor.fit(own, [])
        encoder = ItemEncoder.from_settings(own, preprocessor)
        found.add(towers_fingerprint(encoder))
    encoder.freeze_towers()
    found.add(towers_fingerprint(encoder))
    assert len(found) == 1


@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_is_cached_as_it_is(kind: str, tmp_path: Path) -> None:
    with half_precision(kind):
        encoder = tiny.tiny_encoder()
        content = dataset(encoder, TITLES)
        first, second = (FeatureCache(tmp_path).get_or_compute(content, encoder[0]) for _ in range(2))
        features = content.map(encoder[0].towers)
    for name, values in first.items():
        assert values.dtype == second[name].dtype == np.float32
        np.testing.assert_array_equal(values, second[name])
        np.testing.assert_allclose(values, np.asarray(features[name], np.float32), rtol=0.02, atol=0.02)
