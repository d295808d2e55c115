"""What is learned from training is the same when served: vocabularies, what they lack, and the buckets of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from tfx_pipeline.preprocessing import preprocessing_fn

TOLD = {
    "labels": ["clicked"],
    "categorical_features": ["page", "price"],
    "bucketed_features": ["price"],
    "buckets": 4,
    "oov_buckets": 3,
    "vocabulary_min_count": 2,
    "min_counts": {"user_id": 3, "item_id": 2},
    "statistics": ["overall", "item"],
    "dates": 1,
    "smoothing": 20.0,
}
SPEC = {name: tf.io.FixedLenFeature([1], tf.string) for name in ("user_id", "page", "price")}
COUNTS = {"statistics": tf.io.FixedLenFeature([7], tf.int64)}


def counts_of(row: int) -> list[int]:
    """Overall: 100,000 impressions, 10,000 clicks; the item: some, and a click a day ago or none; a date."""
    return [100_000, 10_000, 5, 7 * row, row, 86_400 if row % 2 else -1, 86_400 * row if row % 3 else -1]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The transform that is learned, as the ranker serves it."""
    pages = ["search", "home", "home"]
    rows = [{"user_id": [f"u{n % 5}"], "page": [pages[n % 3]], "price": [f"{n / 10:.1f}"]} for n in range(400)]
    for row in rows[:2]:  # as often as vocabulary_min_count, less often than min_counts says of users
        row |= {"user_id": ["twice"], "page": ["rare, twice"]}
    for bad in ("", "cheap", "1.2.3"):
        rows.append({"user_id": [f"once, {bad}"], "page": [f"rare, {bad}"], "price": [bad]})
    rows = [{**row, "statistics": counts_of(number)} for number, row in enumerate(rows)]
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC | COUNTS))
    folder = tmp_path_factory.mktemp("transform")
    with tft_beam.Context(temp_dir=str(folder / "temporary")):
        _, function = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(lambda raw: preprocessing_fn(raw, TOLD))
        _ = function | tft_beam.WriteTransformFn(str(folder / "made"))
    return tft.TFTransformOutput(str(folder / "made")).transform_features_layer()


def indices(layer: Any, name: str, values: list[str]) -> list[int]:
    raw = {other: tf.constant([[""]] * len(values)) for other in SPEC} | {name: tf.constant(values)[:, None]}
    found = layer(raw)["user_index" if name == "user_id" else f"{name}_index"].numpy()
    return [int(value) for value in found[:, 0]]


def test_values_seen_often_have_rows_of_their_own(layer: Any) -> None:
    assert sorted(indices(layer, "user_id", [f"u{n}" for n in range(5)])) == [3, 4, 5, 6, 7]
    assert indices(layer, "page", ["home", "search"]) == [3, 4], "the commonest first"


def test_values_not_learned_share_rows_by_hash(layer: Any) -> None:
    strangers = [f"stranger {n}" for n in range(300)]
    found = indices(layer, "user_id", strangers)
    assert set(found) == {0, 1, 2}
    assert min(np.bincount(found)) > 60
    assert found == indices(layer, "user_id", strangers)
    assert indices(layer, "user_id", ["once, cheap"])[0] < 3, "seen less often than vocabulary_min_count"
    assert indices(layer, "page", ["rare, cheap"])[0] < 3
    assert indices(layer, "user_id", ["twice"])[0] < 3, "seen less often than min_counts"
    assert indices(layer, "page", ["rare, twice"])[0] == 5


def test_numbers_fall_in_buckets_of_as_many_rows(layer: Any) -> None:
    found = np.array(indices(layer, "price", [f"{n / 10:.1f}" for n in range(400)]))
    assert found.tolist() == sorted(found)
    assert np.bincount(found)[1:].tolist() == pytest.approx([100] * 4, abs=2)
    assert indices(layer, "price", ["-7", " 1e9 ", "39.95"]) == [1, 4, 4]
    assert indices(layer, "price", ["", "cheap", "1.2.3", "nan"]) == [0, 0, 0, 0]


def test_statistics_are_shares_rates_and_recency_on_one_scale(layer: Any) -> None:
    counts = np.array([counts_of(row) for row in range(403)], np.float64)
    impressions, clicks, seconds, age = counts[:, 3:].T
    prior = 10_001 / 100_002
    rate = (clicks + 20 * prior) / (impressions + 20)
    shares = [np.log1p(10_000 * one / 100_001) for one in (impressions, clicks)]
    expected = np.stack([*shares, np.log(rate / (1 - rate)), np.where(seconds < 0, 0, 1 / np.sqrt(2))], axis=1)
    expected = np.concatenate([expected, np.log1p(np.maximum(age, 0) / 86_400)[:, None]], axis=1)
    found = layer({"statistics": tf.constant([counts_of(row) for row in range(403)], tf.int64)})["statistics"].numpy()
    scaled = np.clip((expected - expected.mean(axis=0)) / expected.std(axis=0), -5, 5)
    assert np.abs(scaled).max() == 5
    np.testing.assert_allclose(found, np.concatenate([scaled, age[:, None] >= 0], axis=1), atol=1e-3)
