"""The difference of two models' AUC on the same rows, with an interval.  NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mim_keras.metrics.gauc import check_scores


class PairedDifference(NamedTuple):
    """AUC of the first model less that of the second, and a 95 % interval of it."""

    difference: float
    low: float
    high: float


def weighted_auc(tie: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """AUC of rows that count `weight` times; NaN where one label has no weight.

    Args:
        tie: Rank of each row's score among the distinct scores, int [n].
        label: 0 or 1, [n].
        weight: [n].
    """
    positive = np.bincount(tie, weight * label)
    negative = np.bincount(tie, weight * (1 - label))
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float(np.sum(positive * (below + negative / 2)) / pairs) if pairs > 0 else float("nan")


def paired_auc_difference(
    user: np.ndarray, label: np.ndarray, first: np.ndarray, second: np.ndarray, resamples: int = 200, seed: int = 0
) -> PairedDifference:
    """Bootstrap over users: the rows of a user are drawn together, for both models.  Of a single user, rows are drawn.

    Args:
        user: Any values that can be sorted, [n].
        label: 0 or 1, [n].
        first, second: Scores, [n].
        resamples: Bootstrap resamples of all users.
        seed: Of the resamples.

    Raises:
        ValueError: the lengths differ, or a score is NaN.

    Example:
        >>> import numpy as np
        >>> from mim_keras.metrics import paired_auc_difference
        >>> user, label = np.repeat(np.arange(50), 2), np.tile([0, 1], 50)
        >>> paired_auc_difference(user, label, label, 1 - label).low
        1.0
    """
    check_scores(user, label, first, second)
    users, code = np.unique(np.asarray(user), return_inverse=True)
    if len(users) == 1:
        users, code = np.arange(len(label)), np.arange(len(label))
    label = np.asarray(label, np.float64)
    ties = [np.unique(np.asarray(score), return_inverse=True)[1] for score in (first, second)]

    def difference(weight: np.ndarray) -> float:
        one, other = (weighted_auc(tie, label, weight) for tie in ties)
        return one - other

    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))
        differences.append(difference(times[code].astype(np.float64)))
    known = [value for value in differences if not np.isnan(value)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (float("nan"), float("nan"))
    return PairedDifference(difference(np.ones(len(label))), float(low), float(high))
