"""GAUC as a Keras metric."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class StreamingGAUC(keras.metrics.Metric):
    """Area under the ROC curve within each user, averaged by rows; users with one label are left out.

    Counts, for each user and each score rounded to `bins` steps, the positives and the negatives.  So it equals
    `mim_keras.metrics.gauc` of the rounded scores exactly, however a user's rows are spread over batches and replicas.
    Its memory is 8 · users · bins bytes, whatever the number of rows: 2 GB for a million users and 256 bins.

    Args:
        users: Number of users.
        bins: Steps between 0 and 1.

    Example:
        >>> from mim_keras.metrics import StreamingGAUC
        >>> metric = StreamingGAUC(users=2)
        >>> metric.update_state([1, 0, 1], [0.9, 0.2, 0.4], user=[0, 0, 1])
        >>> float(metric.result())
        1.0

    Source: Zhu et al. 2017, Optimized cost per click in Taobao (1703.02091).
    """

    def __init__(self, users: int, bins: int = 256, name: str = "gauc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if users < 1 or bins < 2:
            raise ValueError(
                f"users must be at least 1 and bins at least 2; received users={users}, bins={bins}. Raise them."
            )
        self.users, self.bins = users, bins
        self.positives = self.add_weight(shape=(users, bins), initializer="zeros", name="positives")
        self.negatives = self.add_weight(shape=(users, bins), initializer="zeros", name="negatives")

    def update_state(self, y_true: Any, y_pred: Any, user: Any, sample_weight: Any = None) -> None:
        """Adds rows.

        Args:
            y_true: 0 or 1, [B].
            y_pred: Probabilities, [B].
            user: The user of each row, int [B], below `users`.
            sample_weight: [B]; a weight of zero leaves a row out.
        """
        label, score = (ops.reshape(ops.cast(values, "float32"), (-1,)) for values in (y_true, y_pred))
        bins = ops.round(ops.clip(score, 0.0, 1.0) * (self.bins - 1))
        bin_index = ops.cast(ops.where(ops.isnan(score), 0.0, bins), "int32")
        indices = ops.stack([ops.reshape(ops.cast(user, "int32"), (-1,)), bin_index], axis=1)  # (B, 2)
        weight = (
            ops.ones_like(label) if sample_weight is None else ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        )
        weight = ops.where(ops.isnan(score), float("nan"), weight)  # a NaN score makes the result NaN
        shape = (self.users, self.bins)
        self.positives.assign_add(ops.cast(ops.scatter(indices, label * weight, shape), self.positives.dtype))
        self.negatives.assign_add(ops.cast(ops.scatter(indices, (1 - label) * weight, shape), self.negatives.dtype))

    def result(self) -> Any:
        """NaN where no user has both labels."""
        positives, negatives = ops.convert_to_tensor(self.positives), ops.convert_to_tensor(self.negatives)
        negatives_below = ops.cumsum(negatives, axis=1) - negatives
        concordant_pairs = ops.sum(positives * (negatives_below + 0.5 * negatives), axis=1)  # ties count half
        num_positives, num_negatives = ops.sum(positives, axis=1), ops.sum(negatives, axis=1)
        has_both = ops.cast((num_positives > 0) & (num_negatives > 0), concordant_pairs.dtype)
        area = concordant_pairs / ops.where(has_both > 0, num_positives * num_negatives, 1.0)
        rows = (num_positives + num_negatives) * has_both
        total = ops.sum(rows)
        return ops.where(total > 0, ops.sum(area * rows) / ops.where(total > 0, total, 1.0), float("nan"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "users": self.users, "bins": self.bins}
