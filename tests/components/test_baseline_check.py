"""The baselines, and what they let pass."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from components.baseline_check.executor import accept, boosted_scores, compare, sentence, why_not
from components.baseline_check.rows import FOLDS, SMOOTHING, ItemContent, RowReader, Rows, log_odds, rates_of
from components.history_gen.span_statistics import entity_names
from mim_keras.metrics import auc


def rows_of(rng: np.random.Generator, count: int, signal: float = 2.0) -> Rows:
    """Clicks that follow one feature; items and users are noise."""
    features = rng.normal(size=(count, 3)).astype(np.float32)
    label = (rng.random(count) < 1 / (1 + np.exp(-signal * features[:, 1]))).astype(np.float64)
    segment = np.where(rng.random(count) < 0.3, b"cold", b"rest")
    return Rows(rng.integers(1, 50, count), rng.normal(size=(count, 3)), label, segment, features)


def test_out_of_fold_rates_do_not_see_their_own_row(rng: np.random.Generator) -> None:
    code, label = rng.integers(0, 4, 60), rng.integers(0, 2, 60).astype(float)
    places = np.arange(0, 60, 2)  # a sample of the rows
    found = dict(zip(places, log_odds(code, label, code[places], places), strict=True))
    prior = (label.sum() + 1) / 62
    for row in places:
        others = (code == code[row]) & (np.arange(60) % FOLDS != row % FOLDS)
        rate = (label[others].sum() + SMOOTHING * prior) / (others.sum() + SMOOTHING)
        assert found[row] == pytest.approx(np.log(rate / (1 - rate)))
    unknown = log_odds(code, label, np.array([9]))
    assert unknown[0] == pytest.approx(np.log(prior / (1 - prior)))


def test_statistics_become_rates() -> None:
    overall, item, date = [1_000, 100, 5], [50, 10, 86_400], [2 * 86_400]
    (found,) = rates_of(np.array([[*overall, *item, *date]]), entities=2)
    rate = (10 + SMOOTHING * 101 / 1_002) / (50 + SMOOTHING)
    np.testing.assert_allclose(found, [np.log(rate / (1 - rate)), 50 / 1_001, 1.0, 2.0])
    (never,) = rates_of(np.array([[*overall, 0, 0, -1, -1]]), entities=2)
    assert np.isnan(never[2:]).all()


def test_trees_find_a_signal_and_a_ranker_must_be_above_it(rng: np.random.Generator) -> None:
    train, valid, test = (rows_of(rng, count) for count in (6_000, 1_500, 3_000))
    truth = test.features[:, 1]
    trees = boosted_scores(train, valid, test, [])
    assert auc(test.label, trees) > auc(test.label, truth) - 0.02
    equal = compare(train, valid, test, trees, [])
    assert equal["best"] == "gradient boosting"
    assert equal["difference"] == pytest.approx(0)
    assert not accept(equal, must_beat=True)
    assert accept(equal, must_beat=False)
    assert "not better than gradient boosting" in why_not(equal, accepted=False)
    better = compare(train, valid, test, test.label * 0.4 + trees * 0.6, [])
    assert better["low"] > 0
    assert accept(better, must_beat=True)
    assert f"{better['low']:+.4f}" in sentence(better)
    cold = test.segment == b"cold"
    assert better["baselines"]["gradient boosting"]["cold_auc"] == pytest.approx(auc(test.label[cold], trees[cold]))


def test_one_label_is_no_comparison(rng: np.random.Generator) -> None:
    train, valid, test = (rows_of(rng, 300) for _ in range(3))
    test.label[:] = 0
    found = compare(train, valid, test, np.zeros(300), [])
    assert (found["difference"], found["ranker"]["auc"]) == (None, None)
    assert not accept(found, must_beat=True)
    assert "one label" in sentence(found)
    assert "one label" in why_not(found, accepted=False)


def test_scores_that_are_not_finite_are_not_released(rng: np.random.Generator) -> None:
    train, valid, test = (rows_of(rng, 300) for _ in range(3))
    scores = test.label.copy()
    scores[3] = np.nan
    found = compare(train, valid, test, scores, [])
    assert found["ranker"]["auc"] is None
    assert not accept(found, must_beat=True)
    assert "not finite" in sentence(found)


def test_an_empty_split_is_no_comparison(rng: np.random.Generator) -> None:
    none = np.zeros(0, np.int64)
    empty = Rows(none, np.zeros((0, 3)), none, none, np.zeros((0, 1), np.float32))
    found = compare(rows_of(rng, 300), empty, empty, np.zeros(0), [])
    assert found["difference"] is None
    assert not accept(found, must_beat=True)
    assert compare(rows_of(rng, 300), empty, rows_of(rng, 300), np.zeros(300), [])["best"]


def test_statistics_of_learned_attributes_are_not_a_baselines() -> None:
    content = ItemContent(pa.array([b"a"]), np.zeros((2, 2), np.float32), np.zeros((2, 1), np.int32), (1,))
    names = entity_names(["brand", "text_words"])
    counts = np.arange(3 * len(names)) + 1
    columns = {
        "item_id": pa.array([b"a"]),
        "history_item_ids": pa.array([[]], pa.list_(pa.binary())),
        "statistics": pa.array([[*counts, 86_400]], pa.list_(pa.int64())),
    }
    found = RowReader("", content, {}, names)._features(columns)[0]
    declared = [name for name in names if "text_words" not in name]
    assert len(names) - len(declared) == 2
    kept = [
        count for place, name in enumerate(names) for count in counts[3 * place : 3 * place + 3] if name in declared
    ]
    expected = rates_of(np.array([[*kept, 86_400]]), len(declared))[0]
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-6)


def test_candidates_are_compared_with_histories() -> None:
    """By hand: two items alike, one opposite, one without content."""
    vectors = np.array([[0, 0], [1, 0], [1, 0], [-1, 0], [0, 0]], np.float32)
    attributes = np.array([[0], [1], [2], [1], [0]], np.int32)
    content = ItemContent(pa.array([b"a", b"b", b"c", b"d"]), vectors, attributes, (1,))
    reader = RowReader("", content, {}, ())
    columns = {
        "item_id": pa.array([b"a", b"a", b"d", b"gone"]),
        "history_item_ids": pa.array([[b"b", b"c"], [], [b"a"], [b"a"]], pa.list_(pa.binary())),
    }
    length, mean, largest, last, shared = reader._features(columns).T
    np.testing.assert_allclose(length, np.log1p([2, 0, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(mean, [0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(largest, [1, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(last, [-1, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(shared, [0.5, np.nan, 0, 0])
