"""GAUC: the area under the ROC curve within each user, averaged by impressions.  NumPy."""

from __future__ import annotations

import numpy as np


def check_scores(group: np.ndarray, label: np.ndarray, *scores: np.ndarray) -> None:
    """Checks rows that a metric is computed of.

    Raises:
        ValueError: the lengths differ, or a score is NaN.
    """
    lengths = [len(values) for values in (group, label, *scores)]
    if len(set(lengths)) > 1:
        raise ValueError(f"groups, labels and scores must have one length; received {lengths}. Give one of each a row.")
    for score in scores:
        rows = np.flatnonzero(np.isnan(np.asarray(score, np.float64)))
        if len(rows):
            raise ValueError(
                f"scores must be numbers; received NaN in {len(rows)} of {len(score)} rows, the first of them "
                f"{rows[:5].tolist()}. The model has diverged: lower its learning rate."
            )


def per_group_auc(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each group that has both labels, and its number of rows.

    Args:
        group: Any values that can be sorted, [n].
        label: 0 or 1, [n].
        score: [n]; ties count half.

    Returns:
        AUC float [groups] and rows int [groups]; groups with one label are left out.

    Raises:
        ValueError: the lengths differ, or a score is NaN.

    Example:
        >>> import numpy as np
        >>> from mim_keras.metrics import per_group_auc
        >>> area, rows = per_group_auc(np.array([1, 1, 2]), np.array([1, 0, 1]), np.array([0.9, 0.2, 0.5]))
        >>> area.tolist(), rows.tolist()
        ([1.0], [2])
    """
    check_scores(group, label, score)
    if not len(label):
        return np.zeros(0), np.zeros(0, np.int64)
    _, code = np.unique(np.asarray(group), return_inverse=True)
    label = np.asarray(label, np.float64)
    order = np.lexsort((score, code))
    code, label, score = code[order], label[order], np.asarray(score)[order]
    sizes = np.bincount(code)
    start = (np.cumsum(sizes) - sizes)[code]
    rank = np.arange(len(code)) - start + 1.0
    # ties share the mean of their ranks
    is_new = np.concatenate([[True], (code[1:] != code[:-1]) | (score[1:] != score[:-1])])
    tie = np.cumsum(is_new) - 1
    rank = (np.bincount(tie, rank) / np.bincount(tie))[tie]
    positives = np.bincount(code, label)
    negatives = sizes - positives
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (np.bincount(code, rank * label) - positives * (positives + 1) / 2) / (positives * negatives)
    has_both = (positives > 0) & (negatives > 0)
    return area[has_both], sizes[has_both]


def gauc(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> float:
    """Mean of `per_group_auc`, weighted by rows; NaN where no group has both labels.

    Source: Zhu et al. 2017, Optimized cost per click in Taobao (1703.02091).
    """
    area, rows = per_group_auc(group, label, score)
    return float(np.average(area, weights=rows)) if len(area) else float("nan")


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve of all rows; ties count half; NaN where there is one label only."""
    area, _ = per_group_auc(np.zeros(len(label), np.int8), label, score)
    return float(area[0]) if len(area) else float("nan")


def log_loss(label: np.ndarray, score: np.ndarray) -> float:
    """Mean binary cross-entropy of probabilities."""
    p = np.clip(np.asarray(score, np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(np.asarray(label) > 0.5, np.log(p), np.log1p(-p))))


def ranking_metrics(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """`auc`, `gauc` and `logloss` of the same rows."""
    return {"auc": auc(label, score), "gauc": gauc(user, label, score), "logloss": log_loss(label, score)}
