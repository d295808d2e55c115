"""The paired difference of two models' AUC."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.metrics import auc, paired_auc_difference
from mim_keras.metrics.paired import weighted_auc


def test_weights_repeat_rows(rng: np.random.Generator) -> None:
    label, score = rng.integers(0, 2, 200), rng.integers(0, 20, 200) / 7
    weight = rng.integers(0, 4, 200)
    tie = np.unique(score, return_inverse=True)[1]
    repeated = np.repeat(np.arange(200), weight)
    assert weighted_auc(tie, label, weight.astype(float)) == pytest.approx(auc(label[repeated], score[repeated]))


def test_the_interval_holds_the_difference_and_knows_no_difference(rng: np.random.Generator) -> None:
    user, label = np.repeat(np.arange(400), 5), rng.integers(0, 2, 2_000)
    good, bad = label + rng.normal(size=2_000), label + 3 * rng.normal(size=2_000)
    better = paired_auc_difference(user, label, good, bad)
    assert better.difference == pytest.approx(auc(label, good) - auc(label, bad))
    assert 0 < better.low < better.difference < better.high
    same = paired_auc_difference(user, label, bad, label + 3 * rng.normal(size=2_000))
    assert same.low < 0 < same.high
    one_label = paired_auc_difference(user, np.ones(2_000), good, bad)
    assert np.isnan(one_label).all()


def test_users_are_drawn_with_all_their_rows(rng: np.random.Generator) -> None:
    """Rows that repeat within a user add no information, so that the interval does not narrow."""
    user, label = np.arange(300), rng.integers(0, 2, 300)
    first, second = label + rng.normal(size=300), label + 1.2 * rng.normal(size=300)
    once = paired_auc_difference(user, label, first, second)
    often = paired_auc_difference(*(np.repeat(values, 20) for values in (user, label, first, second)))
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.3)


def test_a_single_user_has_an_interval_over_rows(rng: np.random.Generator) -> None:
    label = rng.integers(0, 2, 60)
    found = paired_auc_difference(np.zeros(60), label, label + rng.normal(size=60), rng.normal(size=60))
    assert found.low < found.difference < found.high
    with pytest.raises(ValueError, match="received NaN in 60 of 60 rows"):
        paired_auc_difference(np.zeros(60), label, np.full(60, np.nan), label)
