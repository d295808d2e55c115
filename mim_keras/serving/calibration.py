"""Calibration of probabilities, fitted after training and exported with the ranker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from scipy.optimize import isotonic_regression, minimize

from mim_keras.metrics import calibration_error

Kind = Literal["platt", "isotonic"]

SMALLEST = 1e-6  # probabilities are from here to 1 minus it
FEWEST_ROWS = 200  # of each label, below which nothing is fitted
GAIN = 0.9  # a calibration is kept where the error falls below this share


@dataclass(frozen=True)
class Calibration:
    """A rising map of log-odds: linear between points, and beyond them as between the first and the last two.

    Attributes:
        points: Log-odds of the scores, rising, [k], k ≥ 2.
        values: Calibrated log-odds, [k].

    Example:
        >>> import numpy as np
        >>> from mim_keras.serving.calibration import Calibration
        >>> doubled = Calibration(np.array([0.0, 1.0]), np.array([0.0, 2.0]))
        >>> doubled.apply(np.array([0.5])).round(3).tolist()
        [0.5]
    """

    points: np.ndarray
    values: np.ndarray

    def apply(self, score: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of scores, float [n]."""
        return np.asarray(self(tf.constant(score, tf.float64)))

    def __call__(self, score: Any) -> Any:
        """The same as operations of a graph, in the scores' dtype."""
        x = _log_odds(tf.cast(score, tf.float64))
        points, values = (tf.constant(one, tf.float64) for one in (self.points, self.values))
        right = tf.clip_by_value(tf.searchsorted(points, tf.reshape(x, [-1])), 1, len(self.points) - 1)
        right = tf.reshape(right, tf.shape(x))
        low, high = tf.gather(points, right - 1), tf.gather(points, right)
        share = (x - low) / (high - low)
        y = tf.gather(values, right - 1) * (1 - share) + tf.gather(values, right) * share
        return tf.cast(tf.sigmoid(y), score.dtype)


def fit_platt(label: np.ndarray, score: np.ndarray) -> Calibration:
    """A straight line through the log-odds (Platt scaling), by maximum likelihood.

    Args:
        label: 0 or 1, [n].
        score: Probabilities, [n].

    Source: Platt 1999, with the smoothed targets of that paper.
    """
    x, positives = _log_odds(np.asarray(score, np.float64)), float(np.sum(label))
    negatives = len(label) - positives
    target = np.where(label > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        y = line[0] * x + line[1]
        residual = 1 / (1 + np.exp(-y)) - target
        return float(np.mean(np.logaddexp(0, y) - target * y)), np.array([np.mean(residual * x), np.mean(residual)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, None), (None, None)])
    slope, shift = found.x
    return Calibration(np.array([0.0, 1.0]), np.array([shift, slope + shift]))


def fit_isotonic(label: np.ndarray, score: np.ndarray) -> Calibration:
    """A rising curve through the click rates (isotonic regression), linear between the middles of its steps.

    Args:
        label: 0 or 1, [n].
        score: Probabilities, [n].

    Source: Zadrozny and Elkan 2002.
    """
    distinct, code, count = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    clicks = np.bincount(code, np.asarray(label, np.float64))
    blocks = isotonic_regression(clicks / count, weights=count).blocks
    # Each step at the mean of its log-odds; one without clicks has a rate, too.
    size, clicked, x = (np.add.reduceat(one, blocks[:-1]) for one in (count, clicks, _log_odds(distinct) * count))
    middle, rate = x / size, np.maximum.accumulate((clicked + 0.5) / (size + 1))
    keep = np.concatenate([[True], np.diff(middle) > 1e-9])
    middle, rate = middle[keep], rate[keep]
    if len(middle) < 2:
        return Calibration(np.array([middle[0] - 1, middle[0] + 1]), np.repeat(_log_odds(rate), 2))
    return Calibration(middle, _log_odds(rate))


@dataclass(frozen=True)
class Calibrated:
    """The outcome of a fit.

    Attributes:
        calibration: What was fitted to all rows; None where it gains nothing on rows that it was not fitted to.
        before, after: Expected calibration error of rows that were left out of the fit.
        held_out: Calibrated scores of these rows, in their order, [n].
    """

    calibration: Calibration | None
    before: float
    after: float
    held_out: np.ndarray


def fit_calibration(kind: Kind, label: np.ndarray, score: np.ndarray, group: np.ndarray) -> Calibrated | None:
    """Fits a calibration, and tries it: each half of the groups is calibrated by a fit to the other half.

    Args:
        kind: Platt scaling or isotonic regression.
        label: 0 or 1, [n].
        score: Probabilities, [n].
        group: Codes; rows of one group, of a user say, stay in one half, [n].

    Returns:
        None where there are too few rows of a label, in `FEWEST_ROWS`.
    """
    fit = {"platt": fit_platt, "isotonic": fit_isotonic}[kind]
    _, code = np.unique(group, return_inverse=True)
    half = np.random.default_rng(0).integers(0, 2, code.max(initial=0) + 1)[code].astype(bool)
    counts = [np.bincount(label[rows].astype(int), minlength=2).min() for rows in (half, ~half)]
    if min(counts) < FEWEST_ROWS // 2:
        return None
    held_out = np.empty(len(score))
    for rows in (half, ~half):
        held_out[rows] = fit(label[~rows], score[~rows]).apply(score[rows])
    before, after = calibration_error(label, score), calibration_error(label, held_out)
    calibration = fit(label, score) if after < GAIN * before else None
    return Calibrated(calibration, before, after, held_out)


def undo_sampling(probability: Any, rate: float) -> Any:
    """Probabilities of a log that holds all rows, from those of one that holds `rate` of the rows without a click.

    Example:
        >>> from mim_keras.serving.calibration import undo_sampling
        >>> round(undo_sampling(0.5, 0.1), 4)  # 1 click beside 1 row that is left of 10
        0.0909
    """
    return rate * probability / (rate * probability + (1 - probability))


def reliability(label: np.ndarray, score: np.ndarray, bins: int = 10) -> dict[str, list[float]]:
    """Points of a reliability plot: mean score and rate of the label in bins of as many rows each.

    Returns:
        `score` and `rate`, a value a bin.
    """
    parts = np.array_split(np.argsort(score, kind="stable"), min(bins, max(len(score), 1)))
    parts = [part for part in parts if len(part)]
    return {
        "score": [float(np.mean(score[part])) for part in parts],
        "rate": [float(np.mean(label[part])) for part in parts],
    }


def _log_odds(probability: Any) -> Any:
    if isinstance(probability, np.ndarray):
        p = np.clip(probability, SMALLEST, 1 - SMALLEST)
        return np.log(p) - np.log1p(-p)
    p = tf.clip_by_value(probability, SMALLEST, 1 - SMALLEST)
    return tf.math.log(p) - tf.math.log1p(-p)
