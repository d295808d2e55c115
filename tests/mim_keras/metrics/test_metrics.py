"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from mim_keras.metrics import CatalogueRecallAtK, auc, gauc, log_loss, per_group_auc
from mim_keras.metrics.calibration import CalibrationError, calibration_error
from mim_keras.metrics.catalogue_recall import catalogue_recall
from mim_keras.metrics.collapse import mean_pairwise_cosine

pytestmark = pytest.mark.any_backend

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=60)


@given(rows)
@settings(max_examples=200, deadline=None)
def test_gauc_is_scikit_learns_auc_per_user_weighted_by_rows(table: list[tuple[int, int, int]]) -> None:
    user, label, score = (np.array(column) for column in zip(*table, strict=True))
    areas, weights = [], []
    for one in np.unique(user):
        own = user == one
        if len(np.unique(label[own])) == 2:
            areas.append(roc_auc_score(label[own], score[own]))
            weights.append(own.sum())
    expected = np.average(areas, weights=weights) if areas else np.nan
    np.testing.assert_allclose(gauc(user, label, score), expected)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_auc_does_not_change_when_scores_are_stretched(table: list[tuple[int, int, int]]) -> None:
    _, label, score = (np.array(column) for column in zip(*table, strict=True))
    np.testing.assert_allclose(auc(label, score), auc(label, score * 7.0 - 3.0))


def test_groups_with_one_label_are_left_out() -> None:
    areas, sizes = per_group_auc(np.array([1, 1, 2, 2]), np.array([0, 1, 1, 1]), np.array([0.1, 0.9, 0.5, 0.6]))
    np.testing.assert_array_equal(areas, [1.0])
    np.testing.assert_array_equal(sizes, [2])


def test_log_loss_is_scikit_learns(rng: np.random.Generator) -> None:
    label, score = rng.integers(0, 2, 50), rng.uniform(0.01, 0.99, 50)
    assert log_loss(label, score) == pytest.approx(sklearn_log_loss(label, score))


def test_recall_by_hand() -> None:
    items = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    query = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert catalogue_recall(query, items, np.array([0, 1, 0]), 1) == pytest.approx(1 / 3)
    assert catalogue_recall(query, items, np.array([0, 1, 0]), 2) == pytest.approx(2 / 3)
    assert catalogue_recall(query, items, np.array([0, 1, 0]), 3) == 1.0


def test_mean_pairwise_cosine_tells_collapse() -> None:
    assert mean_pairwise_cosine(np.tile([[1.0, 0.0]], (5, 1))) == pytest.approx(1.0)
    assert mean_pairwise_cosine(np.eye(4)) == pytest.approx(0.0)


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_recall_as_a_metric_is_recall_at_k_in_any_batches(seed: int, batch: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    items, query = rng.normal(size=(30, 4)).astype("float32"), rng.normal(size=(20, 4)).astype("float32")
    items[3] = items[4]  # a tie
    item = rng.integers(0, 30, 20)
    metric = CatalogueRecallAtK(k)
    for begin in range(0, 20, batch):
        metric.update_state(item[begin : begin + batch], query[begin : begin + batch], items)
    assert float(metric.result()) == pytest.approx(catalogue_recall(query, items, item, k))
    assert CatalogueRecallAtK.from_config(metric.get_config()).k == k


def test_calibration_error_by_hand() -> None:
    label, score = np.array([1, 0, 1, 0]), np.array([0.3, 0.1, 0.9, 0.8])
    # Two bins: (1 + 0) − (0.3 + 0.1) = 0.6 and (1 + 0) − (0.9 + 0.8) = −0.7, over four rows.
    assert calibration_error(label, score, bins=2) == pytest.approx(1.3 / 4)


@given(st.integers(0, 50), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_calibration_error_as_a_metric_is_the_same_in_any_batches(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 2, 30), rng.random(30).astype("float32")
    score[0], score[1] = 0.0, 1.0
    metric = CalibrationError(bins=5)
    for begin in range(0, 30, batch):
        metric.update_state(label[begin : begin + batch], score[begin : begin + batch])
    assert float(metric.result()) == pytest.approx(calibration_error(label, score, bins=5), abs=1e-6)
    assert CalibrationError.from_config(metric.get_config()).bins == 5


def test_scores_that_are_the_rates_are_calibrated(rng: np.random.Generator) -> None:
    score = rng.random(200_000)
    label = (rng.random(200_000) < score).astype(int)
    assert calibration_error(label, score) < 0.005
    assert calibration_error(label, score**2) > 0.1


@pytest.mark.parametrize("metric", [auc, lambda label, score: gauc(label * 0, label, score), calibration_error])
def test_nan_scores_are_an_error_that_names_the_rows(metric: Any) -> None:
    label, score = np.array([0, 1, 0, 1]), np.array([0.1, np.nan, 0.2, np.nan])
    with pytest.raises(ValueError, match=r"received NaN in 2 of 4 rows, the first of them \[1, 3\]"):
        metric(label, score)
    with pytest.raises(ValueError, match=r"one length; received \[4, 4, 3\]"):
        metric(label, score[:3]) if metric is not calibration_error else gauc(label, label, score[:3])


def test_nan_embeddings_find_nothing() -> None:
    nan, positive = np.full((3, 2), np.nan), np.array([0, 1, 0])
    assert catalogue_recall(nan, np.eye(2), positive, 1) == 0
    assert catalogue_recall(np.eye(2)[positive], np.eye(2), positive, 1) == 1


def test_the_calibration_metric_takes_small_weights_and_shows_nan() -> None:
    label, score = [1.0] * 10, [0.7] * 10
    for weight in (1.0, 0.01):
        metric = CalibrationError()
        metric.update_state(label, score, sample_weight=[weight] * 10)
        assert float(metric.result()) == pytest.approx(0.3, abs=1e-5)
    metric.update_state([1.0], [np.nan])
    assert np.isnan(float(metric.result()))
