"""The ablation's table by hand, its variants, and what is measured of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ttest_rel

from components.columns import Columns
from components.contract.schema import Schema
from mim_keras.config import ConfigError, preset
from tfx_pipeline.ablation.evaluate import Rows, content_figures, cuts_of_test, figures
from tfx_pipeline.ablation.table import CONTENT, interval, markdown, summary
from tfx_pipeline.ablation.variants import GRID, chosen
from tfx_pipeline.ablation.views import by_age, by_popularity
from tfx_pipeline.pipeline import RunPaths, create_pipeline
from tfx_pipeline.settings import Settings


def found(value: float) -> dict:
    return {"test": {"all": {"auc": value, "gauc": value - 0.1}}}


RESULTS = {
    "ids": {1: found(0.70), 2: found(0.72), 3: found(0.71)},
    "full": {1: found(0.75), 2: found(0.76), 3: found(0.77)},
    "hard": {2: found(0.74)},
}


def test_differences_are_paired_by_seed() -> None:
    rows = {(row["variant"], row["figure"]): row for row in summary(RESULTS, "ids")}
    full = rows["full", "auc"]
    assert full["mean"] == pytest.approx(0.76)
    assert full["difference"] == pytest.approx(0.05)
    expected = ttest_rel([0.75, 0.76, 0.77], [0.70, 0.72, 0.71]).confidence_interval(0.95)
    assert full["interval"] == pytest.approx((expected.low, expected.high))
    assert rows["ids", "auc"]["difference"] is None
    one = rows["hard", "auc"]
    assert (one["difference"], one["interval"]) == (pytest.approx(0.02), None)


def test_one_difference_has_no_interval() -> None:
    assert interval([0.1]) is None
    assert interval([0.1, 0.1]) == pytest.approx((0.1, 0.1))


def test_the_page_has_a_line_a_variant() -> None:
    says = {name: GRID[name].says for name in RESULTS}
    page = markdown(summary(RESULTS, "ids"), says, "ids")
    assert "| variant | seeds | all AUC | all GAUC |" in page
    assert "| ids alone | 3 | 0.7100 | 0.6100 |" in page
    assert "| stage 2 with hard negatives alone | 1 | 0.7400 (+0.0200) | 0.6400 (+0.0200) |" in page


def test_what_encoders_find_is_a_table_of_its_own() -> None:
    def seen(value: float) -> dict:
        return {"content": {"intents": {"recall_at_10": value, "times_chance": 100 * value}}}

    results = {
        "ids": {1: found(0.7), 2: found(0.7)},
        "stage1": {1: seen(0.2), 2: seen(0.4)},
        "full": {1: seen(0.5), 2: seen(0.6)},
    }
    rows = summary(results, "stage1", "content", CONTENT)
    assert {row["variant"] for row in rows} == {"stage1", "full"}
    full = next(row for row in rows if (row["variant"], row["figure"]) == ("full", "recall_at_10"))
    assert full["difference"] == pytest.approx(0.25)
    page = markdown(rows, {name: GRID[name].says for name in results}, "stage1")
    assert "| variant | seeds | intents Recall@10 | intents × chance |" in page
    assert "| + stage 1 | 2 | 0.3000 | 30.0 |" in page


@pytest.mark.parametrize("name", GRID)
def test_every_variant_makes_settings_that_hold(name: str) -> None:
    stages = GRID[name].settings(preset("base"), seed=3)
    assert {stages.pretrain.training.seed, stages.csft.training.seed, stages.ciubm.training.seed} == {3}
    for key, value in GRID[name].ciubm.items():
        assert getattr(stages.ciubm, key) == value
    assert stages.encoder.item_embedding_parts == tuple(GRID[name].encoder.get("item_embedding_parts", ["joint"]))


def test_variants_by_name() -> None:
    assert list(chosen("full, ids")) == ["full", "ids"]
    assert list(chosen("")) == list(GRID)
    with pytest.raises(ConfigError, match=r"a variant is one of ids, .*; received fll"):
        chosen("fll")


def columns(users: str, items: str, times: list[int], clicks: list[int], segments: str) -> Columns:
    """Ranking examples; a user, an item or a segment is one letter of a text."""
    segment = {"c": b"cold", "t": b"tail", "r": b"rest"}
    return {
        "user_id": pa.array([letter.encode() for letter in users]),
        "item_id": pa.array([letter.encode() for letter in items]),
        "timestamp": pa.array(times),
        "clicked": pa.array(clicks),
        "segment": pa.array([segment[letter] for letter in segments]),
    }


def test_figures_are_of_the_rows_of_each_slice() -> None:
    rows = columns("aabbb", "vwxyz", [0] * 5, [1, 0, 1, 0, 0], "ccttt")
    found = figures(Rows.of(rows), np.array([0.6, 0.5, 0.4, 0.8, 0.1], np.float32))
    assert {name: values["rows"] for name, values in found.items()} == {"all": 5, "cold": 2, "tail": 3}
    assert found["cold"]["auc"] == 1
    assert found["tail"]["auc"] == 0.5
    assert found["all"]["auc"] == pytest.approx(3 / 6)
    assert found["all"]["gauc"] == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    rows["launched"] = pa.array([b"new", b"known", b"new", b"known", b"known"])
    slices = Rows.of(rows).slices
    assert slices["new"].tolist() == [True, False, True, False, False]
    assert (slices["known"] == ~slices["new"]).all()


def test_popularity_is_of_train_and_age_of_all_splits() -> None:
    day = 86_400
    parts = {
        "train": columns("aaa", "xxy", [5 * day, 6 * day, 7 * day], [1, 1, 0], "rrr"),
        "valid": columns("a", "z", [8 * day], [1], "c"),
        "test": columns("aaaa", "xyzw", [12 * day, 12 * day, 14 * day, 15 * day], [0, 0, 0, 1], "rrcc"),
    }
    found = cuts_of_test(parts)
    ages = {name: np.flatnonzero(rows).tolist() for name, rows in found["age"].items()}
    assert ages == {"first day": [3], "first week": [1, 2], "first month": [0]}
    popularity = [np.flatnonzero(rows).tolist() for rows in found["popularity"].values()]
    assert popularity == [[1, 2, 3], [0]]  # of 0, 0, 0 and 2 clicks in train


def test_what_the_encoder_finds_is_of_the_encoder_that_was_kept(tmp_path: Path) -> None:
    def measured(value: float) -> dict:
        crossed = {"image_to_text": value, "text_to_image": 2 * value, "chance": 0.1}
        return {"cross_modal": crossed, "recall_at_10": {"intents": 3 * value}, "chance": 0.05}

    (tmp_path / "logs").mkdir()
    file = tmp_path / "logs/recall.json"
    for rejected, value in (("", 0.2), ("no better", 0.1)):
        file.write_text(json.dumps({"trained": measured(0.2), "stage_1": measured(0.1), "rejected": rejected}))
        expected = {
            "picture to words": {"recall_at_10": value, "times_chance": pytest.approx(value / 0.1)},
            "words to picture": {"recall_at_10": 2 * value, "times_chance": pytest.approx(2 * value / 0.1)},
            "intents": {"recall_at_10": pytest.approx(3 * value), "times_chance": pytest.approx(3 * value / 0.05)},
        }
        assert content_figures(str(tmp_path)) == expected


def test_stages_that_a_variant_leaves_out_train_nothing() -> None:
    base = preset("base")
    epochs = {}
    for name in ("ids", "raw", "stage1", "stage2", "full"):
        stages = GRID[name].settings(base, seed=2)
        epochs[name] = (stages.pretrain.training.epochs > 0, stages.csft.training.epochs > 0)
        assert stages.ciubm.training.epochs == base.ciubm.training.epochs
    nothing = (False, False)
    assert epochs == {
        "ids": nothing,
        "raw": nothing,
        "stage1": (True, False),
        "stage2": (False, True),
        "full": (True, True),
    }
    ensemble = Settings.load("ml1m").stages
    assert ensemble.ciubm.ensemble_split_dim > 0  # which a tiny encoder does not allow
    ids = GRID["ids"].settings(ensemble, 2)
    assert ids.encoder == preset("tiny").encoder  # no vector is read
    assert ids.ciubm == replace(ensemble.ciubm.without_content(), training=ids.ciubm.training)


def test_a_ranker_alone_is_trained_by_the_nodes_of_a_run() -> None:
    settings = Settings.load("sample", ["data.statistics.enabled=true"])
    whole, alone = (
        {
            node.id: node
            for node in create_pipeline(settings, RunPaths("/d", "/r", data_version="1"), Schema(), only).components
        }
        for only in (False, True)
    )
    assert {"Trainer.pretrain", "Trainer.csft", "EmbeddingExporter", "Transform", "Trainer.ciubm"} <= set(alone)
    assert set(whole) - set(alone) >= {
        "Evaluator",
        "BaselineCheck",
        "Trainer.ids_only",
        "ReleasePusher",
        "RetrievalIndex",
    }
    for name, node in alone.items():
        assert node.exec_properties == whole[name].exec_properties
        assert set(node.inputs) == set(whole[name].inputs)


def test_tenths_by_popularity_keep_alike_items_together() -> None:
    clicks = np.array([0, 0, 0, 5, 9])
    item = np.array([0] * 3 + [1] * 2 + [2] * 3 + [3] * 1 + [4] * 1)
    found = by_popularity(item, clicks)
    assert list(found) == ["5 of 10", "9 of 10", "10 of 10"]  # eight rows of unclicked items lie around the fifth tenth
    np.testing.assert_array_equal(found["5 of 10"], clicks[item] == 0)
    many = by_popularity(np.arange(1000), np.random.default_rng(0).permutation(1000))
    assert [int(rows.sum()) for rows in many.values()] == [100] * 10
    assert by_popularity(np.zeros(0, int), clicks) == {}


def test_ages_are_from_the_first_time_anybody_saw_the_item() -> None:
    day, first = 86_400, np.array([0, 1000])
    item = np.array([0, 0, 0, 1, 1, 1])
    moment = np.array([0, day - 1, day, 1000 + 29 * day, 1000 + 30 * day, 1000 + 365 * day])
    found = {name: np.flatnonzero(rows).tolist() for name, rows in by_age(item, moment, first).items()}
    assert found == {"first day": [0, 1], "first week": [2], "first month": [3], "first year": [4], "older": [5]}


def test_parts_stand_in_their_order() -> None:
    names = ["10 of 10", "2 of 10", "older", "first day", "first week", "all"]
    rows = [{"slice": n, "figure": "auc", "variant": "ids", "seeds": 1, "mean": 0.5} for n in names]
    page = markdown([{**row, "interval": None, "difference": None} for row in rows], {"ids": "ids"}, "ids")
    order = page.splitlines()[0]
    assert order.index("all") < order.index("2 of 10") < order.index("10 of 10")
    assert order.index("all") < order.index("first day") < order.index("first week") < order.index("older")
