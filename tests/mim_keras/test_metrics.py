"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from mim_keras.metrics.gauc import auc, gauc, group_areas, log_loss
from mim_keras.metrics.retrieval import mean_pairwise_cosine, recall_at

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
    areas, sizes = group_areas(np.array([1, 1, 2, 2]), np.array([0, 1, 1, 1]), np.array([0.1, 0.9, 0.5, 0.6]))
    np.testing.assert_array_equal(areas, [1.0])
    np.testing.assert_array_equal(sizes, [2])


def test_log_loss_is_scikit_learns(rng: np.random.Generator) -> None:
    label, score = rng.integers(0, 2, 50), rng.uniform(0.01, 0.99, 50)
    assert log_loss(label, score) == pytest.approx(sklearn_log_loss(label, score))


def test_recall_by_hand() -> None:
    items = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    query = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert recall_at(query, items, np.array([0, 1, 0]), 1) == pytest.approx(1 / 3)
    assert recall_at(query, items, np.array([0, 1, 0]), 2) == pytest.approx(2 / 3)
    assert recall_at(query, items, np.array([0, 1, 0]), 3) == 1.0


def test_mean_pairwise_cosine_tells_collapse() -> None:
    assert mean_pairwise_cosine(np.tile([[1.0, 0.0]], (5, 1))) == pytest.approx(1.0)
    assert mean_pairwise_cosine(np.eye(4)) == pytest.approx(0.0)
