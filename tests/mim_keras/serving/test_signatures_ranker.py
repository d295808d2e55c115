"""One score offline, by examples and by rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mim_keras.layers import ItemTableData
from mim_keras.models import VocabularySizes
from mim_keras.serving.attribute_inputs import AttributeInputs, RawAttribute
from mim_keras.serving.calibration import Calibration
from mim_keras.serving.signatures_ranker import RankerSignatureSpec, export_ranker, item_lookup
from tests.mim_keras.tiny import ITEMS, D, L, any_ranker, item_data, ranker, ranker_config

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


def with_attributes(folder: Path, **changes: Any) -> tuple[Any, dict[str, tf.Tensor]]:
    """A served ranker of items with a category, a brand, tags and a price, and a request."""
    count = np.arange(ITEMS)
    attributes = {
        "brand": [[f"b{n % 3}"] if n != 5 else [] for n in count],
        "cluster": [[f"c{n % 2}"] for n in count],
        "tags": [[f"t{n % 4}", f"t{n % 5}"] if n % 4 != n % 5 else [f"t{n % 4}"] for n in count],
        "price": [[f"bucket {n % 4}"] for n in count],
    }
    plain = item_data("float32")
    data = ItemTableData.from_items(
        plain.embeddings[1:], plain.has_embedding[1:], [["a"], ["b"], []] * 4, plain.id_index[1:], attributes
    )
    changes = {"interests": ["mean_pooling", "attribute_match"], **changes}
    model = any_ranker(ranker_config(**changes), data=data, sizes=VocabularySizes(users=5, context=(3,)))
    kinds = {"category": "list", "brand": "categorical", "cluster": "", "tags": "list", "price": "number"}
    raw, first = {}, 0
    for (name, kind), slots in zip(kinds.items(), data.slots, strict=True):
        codes = {data.values[code].removeprefix(f"{name}: "): code for code in data.codes_of(first, slots)}
        bounds = np.array([10.0, 20.0, 30.0]) if kind == "number" else None
        if kind:
            raw[name] = RawAttribute(kind, codes, first, slots, bounds)
        first += slots
    price = np.where(count % 4, 10.0 * (count % 4), 5.0)
    spec = replace(signature_spec(folder), attributes=raw, item_numbers={"price": price})
    export_ranker(model, spec, folder / "1")
    return tf.saved_model.load(str(folder / "1")), {
        "user_id": tf.constant(["u2"]),
        "device": tf.constant(["web"]),
        "history_item_ids": tf.constant(["i01", "i07", "i08"]),
        "history_ages": tf.constant([50, 20, 9], tf.int64),
    }


RAW = {  # of items 9, 10 and 11, which have no id of their own
    "candidate_category": ["a", "b", ""],
    "candidate_brand": ["b0", "b1", "b2"],
    "candidate_tags": ["t1| t4", "t2|t0", "t1|t3"],
    "candidate_price": ["10", "2e1", "+35.5"],
}


@pytest.mark.parametrize("changes", [{}, {"ensemble_split_dim": 6}], ids=str)
def test_raw_attributes_score_as_those_of_the_catalogue(tmp_path: Path, changes: dict) -> None:
    score = {"ctr": 1.0, "price": 0.5}
    served, request = with_attributes(tmp_path, final_score=score, **changes)
    known, new = tf.constant(["i09", "i10", "i11"]), tf.constant(["new 9", "new 10", "new 11"])
    raw = {name: tf.constant(values) for name, values in RAW.items()}
    nothing = {name: tf.constant([""] * 3) for name in raw}

    def rank(items: tf.Tensor, given: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        answer = served.signatures["rank_with_attributes"](**request, candidate_item_ids=items, **given)
        return {name: values.numpy() for name, values in answer.items()}

    plain = served.signatures["rank"](**request, candidate_item_ids=known)
    for given in (nothing, raw):
        np.testing.assert_allclose(rank(known, given)["ctr"], plain["ctr"], rtol=1e-5)
    # The final score reads the price given: items 9, 10 and 11 cost 10, 20 and 30 in the catalogue.
    rise = rank(known, raw)["final_score"] / plain["final_score"].numpy()
    np.testing.assert_allclose(rise, np.sqrt([1, 1, 35.5 / 30]), rtol=1e-4)

    # With the vector of its twin, all that a new item lacks is its cluster.
    of_twins = tf.constant(item_data("float32").embeddings[[10, 11, 12]])
    vectors = {"candidate_vectors": of_twins, "encoder_version": tf.constant(["abc"])}
    ask = served.signatures["rank_with_vectors"]
    as_new = ask(**request, candidate_item_ids=new, **raw, **vectors)["ctr"].numpy()
    without = ask(**request, candidate_item_ids=new, **nothing, **vectors)["ctr"].numpy()
    twins = plain["ctr"].numpy()
    assert (np.abs(as_new - twins) < np.abs(without - twins)).all()
    for name in RAW:
        one = ask(**request, candidate_item_ids=new, **nothing | {name: raw[name]}, **vectors)["ctr"].numpy()
        assert np.abs(one - without).max() > 1e-7, name

    unheard = {name: tf.constant(["unheard-of"] * 3) for name in raw if name != "candidate_price"}
    cleared = rank(known, nothing | unheard)["ctr"]
    assert (np.abs(cleared - twins) > 1e-7).any()  # a value that no item has is none, not the catalogue's


def test_values_of_a_list_count_once_and_unknown_ones_take_no_slot() -> None:
    tags = AttributeInputs({"tags": RawAttribute("list", {"a": 1, "b": 2, "c": 3}, first_slot=0, slots=2)}, slots=2)
    raw = {"candidate_tags": tf.constant(["x|y|a", "a| a|b|a|c", "x", "", "|".join(["x"] * 500 + ["b"])])}
    values = tags.values(raw | {"candidate_item_ids": tf.constant(list("12345"))})
    assert tags.codes(values).numpy().tolist() == [[1, 0], [1, 2], [0, 0], [-1, -1], [0, 0]]
    assert values["tags"].to_list()[1] == [b"a", b"b", b"c"]


def test_an_attribute_that_no_item_has() -> None:
    nothing = AttributeInputs({"category": RawAttribute("list", {}, first_slot=0, slots=1)}, slots=1)
    values = nothing.values(
        {"candidate_category": tf.constant(["a|b", ""]), "candidate_item_ids": tf.constant(["", ""])}
    )
    assert nothing.codes(values).numpy().tolist() == [[0], [-1]]


def test_raw_attributes_that_cannot_be_read(tmp_path: Path) -> None:
    served, request = with_attributes(tmp_path, final_score={"ctr": 1.0, "price": 0.5})
    asked = {**request, "candidate_item_ids": tf.constant(["i09", "i10"])}
    nothing = {name: tf.constant(["", ""]) for name in RAW}
    rank = served.signatures["rank_with_attributes"]
    for value in ("cheap", "nan", "1,5", "0x10", "1e", "1e999"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="candidate_price takes numbers, such as 12.5"):
            rank(**asked, **nothing | {"candidate_price": tf.constant(["3", value])})
    with pytest.raises(tf.errors.InvalidArgumentError, match="candidate_brand has a value for each candidate"):
        rank(**asked, **nothing | {"candidate_brand": tf.constant(["b1"])})
    many = "|".join(f"t{n % 5}" for n in range(100))
    assert np.isfinite(rank(**asked, **nothing | {"candidate_tags": tf.constant([many, "||"])})["ctr"]).all()
