"""The ablation's table by hand, its variants, and its inputs against what tf.Transform and HistoryGen mean."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ttest_rel

from mim_keras.config import ConfigError, preset
from tfx_pipeline.ablation.inputs import _index_of, _laid_out, _learned
from tfx_pipeline.ablation.table import CONTENT, interval, markdown, summary
from tfx_pipeline.ablation.variants import GRID, chosen
from tfx_pipeline.ablation.views import by_age, by_popularity


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


def test_lists_become_a_table_of_the_latest() -> None:
    lists = pa.array([[1, 2, 3], [], [4]], pa.list_(pa.int64()))
    np.testing.assert_array_equal(_laid_out(lists, lists.values.to_numpy(), 2), [[2, 3], [0, 0], [4, 0]])


def test_what_is_seen_often_enough_is_learned() -> None:
    learned = _learned(pa.array([b"a", b"b", b"a", b"c", b"c"]), 2)
    assert sorted(learned.to_pylist()) == [b"a", b"c"]
    np.testing.assert_array_equal(_index_of(pa.array([b"b", b"a"]), pa.array([b"a", b"c"])), [-1, 0])


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
