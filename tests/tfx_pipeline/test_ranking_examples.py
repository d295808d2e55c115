"""Ranking examples as the ranker takes them: the latest clicks, padding behind, whatever the lists' lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import CiubmConfig, Interest, TrainingConfig
from mim_keras.layers import ItemTableData
from mim_keras.metrics import auc
from mim_keras.serving.signatures_ranker import item_lookup
from tfx_pipeline.run_fns.ciubm import measure
from tfx_pipeline.run_fns.ranking_examples import RankingExamples

HISTORIES = [[], [b"a", b"b"], [b"c"], [b"a", b"b", b"c", b"new", b"a"], [b"b"] * 4, [b"c", b"a"]]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    with tf.io.TFRecordWriter(str(tmp_path / "rows.gz"), "GZIP") as writer:
        for row, history in enumerate(HISTORIES):
            example = tf.train.Example()
            feature = example.features.feature
            feature["item_id"].bytes_list.value.append(b"c")
            feature["history_item_ids"].bytes_list.value.extend(history)
            feature["history_ages"].int64_list.value.extend(2**33 if age == 1 else age for age in range(len(history)))
            feature["user_index"].int64_list.value.append(row)
            feature["clicked"].int64_list.value.append(row % 2)
            writer.write(example.SerializeToString())
    return [str(tmp_path / "*.gz")]


def examples(files: list[str], tmp_path: Path, length: int, batch_size: int = 2, **changes: Any) -> RankingExamples:
    one, several = tf.io.FixedLenFeature, tf.io.VarLenFeature
    spec = {name: one([1], tf.int64) for name in ("user_index", "clicked")} | {"item_id": one([1], tf.string)}
    spec |= {"history_item_ids": several(tf.string), "history_ages": several(tf.int64)}
    lookup = item_lookup(np.array(["a", "b", "c"], object), tmp_path / "ids.txt")
    training = TrainingConfig(batch_size=batch_size)
    return RankingExamples(files, spec, lookup, CiubmConfig(history_length=length, training=training, **changes))


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize("batch", [2, 6])
def test_the_latest_clicks_are_read(files: list[str], tmp_path: Path, length: int, batch: int) -> None:
    place = {b"a": 1, b"b": 2, b"c": 3, b"new": 0}
    found = list(examples(files, tmp_path, length).in_order(batch))
    inputs = {name: np.concatenate([part[name] for part, _ in found]) for name in found[0][0]}
    for row, history in enumerate(HISTORIES):
        clicks, ages = (
            [place[item] for item in history],
            [2**31 - 1 if age == 1 else age for age in range(len(history))],
        )
        padding = [0] * max(0, length - len(history))
        assert inputs["history_rows"][row].tolist() == clicks[-length:] + padding
        assert inputs["history_ages"][row].tolist() == ages[-length:] + padding
    assert inputs["item_row"].tolist() == [3] * 6
    assert inputs["user_index"].tolist() == list(range(6))
    assert np.concatenate([label for _, label in found]).tolist() == [0, 1, 0, 1, 0, 1]


def test_an_epoch_that_is_streamed_has_the_same_rows_shuffled(files: list[str], tmp_path: Path) -> None:
    streamed = examples(files, tmp_path, 3).streamed()
    assert streamed.steps == 3
    whole = next(iter(examples(files, tmp_path, 3).in_order(6)))[0]["history_rows"].numpy()
    orders = []
    for epoch in range(4):
        streamed.set_epoch(epoch)
        parts = list(streamed.dataset)
        users = np.concatenate([inputs["user_index"] for inputs, _ in parts])
        assert sorted(users) == list(range(6))
        np.testing.assert_array_equal(np.concatenate([inputs["history_rows"] for inputs, _ in parts]), whole[users])
        orders.append(users.tolist())
    assert len({tuple(order) for order in orders}) > 1


def test_kept_rows_are_those_of_the_files_and_ages_are_read_where_something_tells_them(
    files: list[str], tmp_path: Path
) -> None:
    items = ItemTableData.from_items(np.eye(3, dtype=np.float16), np.ones(3, bool), [[]] * 3, np.arange(3))
    whole = next(iter(examples(files, tmp_path, 3).in_order(6)))[0]
    for changes in ({}, {"use_recency": False}, {"interests": (Interest("mean_pooling"),)}):
        reader = examples(files, tmp_path, 3, **changes)
        for epochs in (reader.for_training(items), reader.streamed()):
            parts = [inputs for inputs, _ in epochs.dataset]
            assert ("history_ages" in parts[0]) == (not changes)
            users = np.concatenate([part["user_index"] for part in parts])
            assert sorted(users) == list(range(6))
            for name in set(parts[0]) & set(whole):
                found = np.concatenate([part[name] for part in parts])
                np.testing.assert_array_equal(found, whole[name].numpy()[users], err_msg=name)


def test_fewer_rows_than_a_batch_are_a_batch_also_when_streamed(files: list[str], tmp_path: Path) -> None:
    streamed = examples(files, tmp_path, 3, batch_size=50).streamed()
    assert streamed.steps == 1
    assert [len(label) for _, label in streamed.dataset] == [6]


def test_gauc_is_of_users_that_are_told_apart() -> None:
    """Users 0 and 1 stand for many: together they have an area, and none of it is a user's."""
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0], np.float32)
    score = np.array([0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.8, 0.2], np.float32)
    rows = tf.data.Dataset.from_tensor_slices(({"user_index": user}, label)).batch(3)

    def scorer(batches: Iterator[dict[str, tf.Tensor]]) -> np.ndarray:
        return score[: sum(len(batch["user_index"]) for batch in batches)]

    found = measure(scorer, rows, others=2)
    assert found["gauc"] == 1.0
    assert found["auc"] == pytest.approx(auc(label, score))
    assert measure(scorer, rows, others=9)["gauc"] == 0.5  # nobody is known: as they are
