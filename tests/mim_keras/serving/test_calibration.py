"""Calibrations, against what is known of generated scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from mim_keras.metrics import auc, calibration_error
from mim_keras.serving.calibration import (
    Calibration,
    Kind,
    fit_calibration,
    fit_isotonic,
    fit_platt,
    reliability,
    undo_sampling,
)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, their probabilities, and scores that are too sure and too high."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1.5, 1.0, count)
    label = (rng.random(count) < sigmoid(x)).astype(float)
    return label, sigmoid(x), sigmoid(1.7 * x + 0.8)


def test_a_graph_and_numpy_say_the_same() -> None:
    calibration = Calibration(np.array([-2.0, 0.0, 1.0]), np.array([-3.0, -1.0, 4.0]))
    score = sigmoid(np.array([-9.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0]))
    x = np.log(score / (1 - score))
    expected = np.where(x < 0, x - 1, 5 * x - 1)
    np.testing.assert_allclose(calibration.apply(score), sigmoid(expected), atol=1e-5)
    graph = tf.function(calibration).get_concrete_function(tf.TensorSpec([None], tf.float32))
    np.testing.assert_allclose(graph(tf.constant(score, tf.float32)), sigmoid(expected), atol=1e-4)
    matrix = tf.constant(score[:6].reshape(2, 3), tf.float32)
    np.testing.assert_allclose(calibration(matrix), sigmoid(expected)[:6].reshape(2, 3), atol=1e-4)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_scores_that_are_too_sure_are_mended(fit: Callable[[np.ndarray, np.ndarray], Calibration]) -> None:
    label, probability, score = rows(40_000)
    calibration = fit(label, score)
    _, true, other = rows(40_000, seed=1)
    found = calibration.apply(other)
    assert np.abs(found - true).mean() < 0.01 < np.abs(other - true).mean() / 5
    assert (np.diff(calibration.values) >= 0).all()
    assert auc(label, calibration.apply(score)) == pytest.approx(auc(label, score), abs=2e-3)
    assert calibration_error(label, probability) < 0.01


def test_platt_is_the_line_that_made_the_scores() -> None:
    label, _, score = rows(200_000)
    line = fit_platt(label, score)
    slope = line.values[1] - line.values[0]
    assert slope == pytest.approx(1 / 1.7, rel=0.03)
    assert line.values[0] == pytest.approx(-0.8 / 1.7, abs=0.03)


def test_a_calibration_that_gains_nothing_is_not_kept() -> None:
    label, probability, score = rows(20_000)
    users = np.arange(20_000) % 500
    for kind in get_args(Kind):
        good = fit_calibration(kind, label, probability, users)
        assert good is not None
        assert good.calibration is None
        bad = fit_calibration(kind, label, score, users)
        assert bad is not None
        assert bad.calibration is not None
        assert bad.after < bad.before / 3
        assert calibration_error(label, bad.held_out) == bad.after
    assert fit_calibration("platt", label[:100], score[:100], users[:100]) is None
    assert fit_calibration("platt", np.zeros(20_000), score, users) is None


def test_few_distinct_scores() -> None:
    label = np.array([0, 1] * 500, float)
    calibration = fit_isotonic(label, np.full(1_000, 0.9))
    np.testing.assert_allclose(calibration.apply(np.array([0.1, 0.9, 0.99])), 0.5, atol=0.01)
    assert np.isfinite(fit_platt(label, np.full(1_000, 0.9)).values).all()
    falling = fit_isotonic(np.array([1.0] * 300 + [0.0] * 300), np.linspace(0.1, 0.9, 600))
    np.testing.assert_allclose(falling.apply(np.array([0.2, 0.8])), 0.5, atol=0.01)


def test_sampling_is_undone() -> None:
    label, probability, _ = rows(400_000)
    rng = np.random.default_rng(2)
    keep = (label > 0) | (rng.random(len(label)) < 0.1)
    sampled = probability / (probability + 0.1 * (1 - probability))
    assert sampled[keep].mean() == pytest.approx(label[keep].mean(), rel=0.02)
    np.testing.assert_allclose(undo_sampling(sampled, 0.1), probability, rtol=1e-6)


def test_reliability() -> None:
    label, probability, _ = rows(50_000)
    points = reliability(label, probability)
    assert len(points["score"]) == 10
    np.testing.assert_allclose(points["rate"], points["score"], atol=0.02)
    assert reliability(np.array([1.0]), np.array([0.5])) == {"score": [0.5], "rate": [1.0]}
