"""One score offline, by examples and by rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mim_keras.serving.calibration import Calibration
from mim_keras.serving.signatures_ranker import RankerSignatureSpec, export_ranker, item_lookup
from tests.mim_keras.tiny import ITEMS, D, L, item_data, ranker

IDS = np.array([f"i{n:02d}" for n in range(ITEMS)])


def example(user: str, item: str, history: list[str], ages: list[int], device: str) -> bytes:
    made = tf.train.Example()
    feature = made.features.feature
    for name, values in (("user_id", [user]), ("item_id", [item]), ("device", [device]), ("history_item_ids", history)):
        feature[name].bytes_list.value.extend(value.encode() for value in values)
    feature["history_ages"].int64_list.value.extend(ages)
    return bytes(made.SerializeToString())


def signature_spec(folder: Path) -> RankerSignatureSpec:
    tables = {
        "user_id": tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["u1", "u2"], [1, 2]), 0),
        "device": tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["tv", "web"], [1, 2]), 0),
    }
    owner = tf.Module()
    owner.tables = list(tables.values())
    names = {"user_id": "user_index", "device": "device_index"}
    return RankerSignatureSpec(
        item_ids=IDS,
        item_lookup=item_lookup(IDS, folder / "scratch/item_ids.txt"),
        transform=lambda raw: {names[n]: tables[n].lookup(raw[n]) for n in names},
        transform_owner=owner,
        feature_spec={
            **{n: tf.io.FixedLenFeature([1], tf.string) for n in ("user_id", "item_id", "device", "segment")},
            "history_item_ids": tf.io.VarLenFeature(tf.string),
            "history_ages": tf.io.VarLenFeature(tf.int64),
        },
        context_features=("device",),
        encoder_version="abc",
    )


@pytest.mark.parametrize("changes", [{}, {"search_top_k": 3}], ids=str)
def test_one_score_offline_by_examples_and_by_rank(tmp_path: Path, changes: dict) -> None:
    data, model = item_data(), ranker(context=(3,), **changes)
    export_ranker(model, signature_spec(tmp_path), tmp_path / "1")
    (tmp_path / "scratch/item_ids.txt").unlink()  # the SavedModel has its own copy
    served = tf.saved_model.load(str(tmp_path / "1"))

    candidates = ["i00", "i03", "i11", "unheard-of"]
    histories = {"none": [], "short": ["i01", "i02"], "long": [f"i{n % ITEMS:02d}" for n in range(11)]}
    for history in histories.values():
        ages = [100 * (len(history) - index) for index in range(len(history))]
        examples = tf.constant([example("u2", item, history, ages, "web") for item in candidates])
        by_examples = served.signatures["serve_examples"](examples=examples)["ctr"].numpy()
        request = {
            "user_id": tf.constant(["u2"]),
            "device": tf.constant(["web"]),
            "history_item_ids": tf.constant(history, tf.string),
            "history_ages": tf.constant(ages, tf.int64),
            "candidate_item_ids": tf.constant(candidates),
        }
        by_rank = served.signatures["rank"](**request)["ctr"].numpy()
        nothing = tf.zeros([4, D])
        with_vectors = {**request, "candidate_vectors": nothing, "encoder_version": tf.constant(["abc"])}
        by_vectors = served.signatures["rank_with_vectors"](**with_vectors)["ctr"].numpy()
        kept = history[-L:]
        rows, seconds = np.zeros((4, L), int), np.zeros((4, L), int)
        rows[:, : len(kept)] = [int(h[1:]) + 1 for h in kept]
        seconds[:, : len(kept)] = ages[-L:]
        inputs = {"item_row": np.array([1, 4, 12, 0]), "history_rows": rows, "history_ages": seconds}
        offline = model({**inputs, "user_index": np.full(4, 2), "context": np.full((4, 1), 2)})["ctr"].numpy()[:, 0]
        for found in (by_examples, by_rank, by_vectors):
            np.testing.assert_allclose(found, offline, atol=1e-5)

    features = served.signatures["transform_features"](examples=examples)
    np.testing.assert_array_equal(features["item_row"], [1, 4, 12, 0])
    answer = served.signatures["rank"](**request)
    assert answer["has_vector"].numpy().tolist() == [*data.has_embedding[[1, 4, 12]], False]
    assert answer["encoder_version"].numpy().tolist() == [b"abc"]
    given = np.tile(data.embeddings[1] / 127.0, (4, 1)).astype(np.float32)
    unseen = served.signatures["rank_with_vectors"](**{**with_vectors, "candidate_vectors": tf.constant(given)})
    assert abs(float(unseen["ctr"][3] - by_rank[3])) > 1e-6  # an unknown item is scored by its embedding
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be of encoder abc, which this ranker"):
        served.signatures["rank_with_vectors"](**{**with_vectors, "encoder_version": tf.constant(["abd"])})


def test_several_labels_and_a_final_score(tmp_path: Path) -> None:
    score = {"ctr": 1.0, "ordered": 0.5, "price": 0.3}
    model = ranker(context=(3,), labels=["clicked", "ordered"], multi_label="esmm", final_score=score)
    price = np.geomspace(1, 100, ITEMS)
    price[3], price[4] = np.nan, -5.0
    spec = replace(signature_spec(tmp_path), item_numbers={"price": price})
    export_ranker(model, spec, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1"))
    candidates = ["i00", "i03", "i04", "i11", "unheard-of"]
    request = {
        "user_id": tf.constant(["u2"]),
        "device": tf.constant(["web"]),
        "history_item_ids": tf.constant(["i01"]),
        "history_ages": tf.constant([50], tf.int64),
        "candidate_item_ids": tf.constant(candidates),
    }
    answer = {name: values.numpy() for name, values in served.signatures["rank"](**request).items()}
    assert set(answer) == {"ctr", "ordered", "final_score", "has_vector", "encoder_version"}
    assert (answer["ordered"] < answer["ctr"]).all()
    known = price[np.nan_to_num(price) > 0]
    usual = np.exp(np.log(known).mean())
    factor = np.array([price[0], usual, usual, price[11], usual]) / usual
    expected = answer["ctr"] * answer["ordered"] ** 0.5 * factor**0.3
    np.testing.assert_allclose(answer["final_score"], expected, rtol=1e-4)
    examples = tf.constant([example("u2", item, ["i01"], [50], "web") for item in candidates])
    by_examples = served.signatures["serve_examples"](examples=examples)
    assert set(by_examples) == {"ctr", "ordered"}
    np.testing.assert_allclose(by_examples["ordered"], answer["ordered"], atol=1e-6)


def test_calibrated_probabilities_of_the_whole_log(tmp_path: Path) -> None:
    labels = {"labels": ["clicked", "ordered"], "multi_label": "esmm"}
    plain, thinned = ranker(context=(3,), **labels), ranker(context=(3,), negative_sampling_rate=0.1, **labels)
    thinned.set_weights(plain.get_weights())
    line = Calibration(np.array([0.0, 1.0]), np.array([-0.5, 1.5]))
    spec = signature_spec(tmp_path)
    export_ranker(plain, spec, tmp_path / "plain")
    export_ranker(thinned, replace(spec, calibrations={"ctr": line}), tmp_path / "thinned")
    request = {
        "user_id": tf.constant(["u2"]),
        "device": tf.constant(["web"]),
        "history_item_ids": tf.constant(["i01"]),
        "history_ages": tf.constant([50], tf.int64),
        "candidate_item_ids": tf.constant(["i00", "i04", "i11"]),
    }
    before, after = (
        {
            name: values.numpy()
            for name, values in tf.saved_model.load(str(tmp_path / name)).signatures["rank"](**request).items()
        }
        for name in ("plain", "thinned")
    )
    calibrated = line.apply(before["ctr"])
    expected = 0.1 * calibrated / (0.1 * calibrated + 1 - calibrated)
    np.testing.assert_allclose(after["ctr"], expected, rtol=1e-4)
    np.testing.assert_allclose(after["ordered"], before["ordered"] * expected / calibrated, rtol=1e-4)
