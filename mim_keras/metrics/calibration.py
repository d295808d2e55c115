"""Whether predicted click rates are the rates that happen."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


def calibration_error(label: np.ndarray, score: np.ndarray, bins: int = 20) -> float:
    """Expected calibration error: the mean over rows of |clicks − predicted clicks| of each one's bin of scores.

    Args:
        label: 0 or 1, [n].
        score: Probabilities, [n].
        bins: Of equal width.

    Source: Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning.
    """
    place = np.minimum((np.asarray(score) * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, np.asarray(label, np.float64) - score, bins)
    return float(np.abs(gap).sum() / max(len(place), 1))


@keras.saving.register_keras_serializable("mim")
class CalibrationError(keras.metrics.Metric):
    """`calibration_error` of a stream of rows, by sums that add up over batches and replicas.

    Args:
        bins: Of equal width.
    """

    def __init__(self, bins: int = 20, name: str = "calibration_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.bins = bins
        self.gap = self.add_weight(shape=(bins,), initializer="zeros", name="gap")
        self.rows = self.add_weight(shape=(), initializer="zeros", name="rows")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds rows: labels [B], probabilities [B], weights [B]."""
        label, score = (ops.reshape(ops.cast(values, "float32"), (-1,)) for values in (y_true, y_pred))
        weight = (
            ops.ones_like(label) if sample_weight is None else ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        )
        place = ops.cast(ops.clip(ops.floor(score * self.bins), 0, self.bins - 1), "int32")
        self.gap.assign_add(ops.segment_sum((label - score) * weight, place, num_segments=self.bins))
        self.rows.assign_add(ops.sum(weight))

    def result(self) -> Any:
        return ops.sum(ops.abs(self.gap)) / ops.maximum(self.rows, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins}
