"""Expected calibration error."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.metrics.gauc import check_scores


def calibration_error(label: np.ndarray, score: np.ndarray, bins: int = 20) -> float:
    """Expected calibration error: the mean over rows of |clicks − predicted clicks| of the bin of each score.

    Args:
        label: 0 or 1, [n].
        score: Probabilities, [n].
        bins: Bins of equal width.

    Raises:
        ValueError: the lengths differ, or a score is NaN.

    Source: Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning.
    """
    check_scores(score, label, score)
    bin_index = np.minimum((np.asarray(score) * bins).astype(np.int64), bins - 1)
    bin_residuals = np.bincount(bin_index, np.asarray(label, np.float64) - score, bins)
    return float(np.abs(bin_residuals).sum() / max(len(bin_index), 1))


@keras.saving.register_keras_serializable("mim")
class CalibrationError(keras.metrics.Metric):
    """`calibration_error` of a stream of rows, from sums that add over batches and replicas.

    Args:
        bins: Bins of equal width.

    Example:
        >>> from mim_keras.metrics import CalibrationError
        >>> metric = CalibrationError(bins=2)
        >>> metric.update_state([1, 0], [0.9, 0.1])
        >>> round(float(metric.result()), 2)
        0.1
    """

    def __init__(self, bins: int = 20, name: str = "calibration_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.bins = bins
        self.bin_residuals = self.add_weight(shape=(bins,), initializer="zeros", name="bin_residuals")
        self.total_weight = self.add_weight(shape=(), initializer="zeros", name="total_weight")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds rows: labels [B], probabilities [B], weights [B]."""
        label, score = (ops.reshape(ops.cast(values, "float32"), (-1,)) for values in (y_true, y_pred))
        weight = (
            ops.ones_like(label) if sample_weight is None else ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        )
        bins = ops.clip(ops.floor(score * self.bins), 0, self.bins - 1)
        bin_index = ops.cast(ops.where(ops.isnan(score), 0.0, bins), "int32")
        residuals = ops.segment_sum((label - score) * weight, bin_index, num_segments=self.bins)
        self.bin_residuals.assign_add(residuals)
        self.total_weight.assign_add(ops.sum(weight))

    def result(self) -> Any:
        total = ops.convert_to_tensor(self.total_weight)
        return ops.sum(ops.abs(self.bin_residuals)) / ops.where(total > 0, total, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins}
