"""GAUC as a Keras metric: counts that add up, whichever batch or replica a row comes in."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class StreamingGAUC(keras.metrics.Metric):
    """Area under the ROC curve within each user, averaged by rows; users with one label only are left out.

    Keeps, for each user, how many clicked and how many other rows have each score, with scores rounded to `bins` steps.
    So it equals `mim_keras.metrics.gauc.gauc` of the rounded scores exactly, however a user's rows are spread over
    batches and replicas, and its memory is 8 · users · bins bytes, whatever the number of rows.

    Args:
        users: How many there are.
        bins: Steps between 0 and 1.

    Example:
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
        self.clicked = self.add_weight(shape=(users, bins), initializer="zeros", name="clicked")
        self.others = self.add_weight(shape=(users, bins), initializer="zeros", name="others")

    def update_state(self, y_true: Any, y_pred: Any, user: Any, sample_weight: Any = None) -> None:
        """Adds rows.

        Args:
            y_true: 0 or 1, [B].
            y_pred: Probabilities, [B].
            user: Index of each row's user, int [B], below `users`.
            sample_weight: Of each row, [B]; a weight of zero leaves a row out.
        """
        label, score = (ops.reshape(ops.cast(values, "float32"), (-1,)) for values in (y_true, y_pred))
        step = ops.cast(ops.round(ops.clip(score, 0.0, 1.0) * (self.bins - 1)), "int32")
        place = ops.stack([ops.reshape(ops.cast(user, "int32"), (-1,)), step], axis=1)  # (B, 2)
        weight = (
            ops.ones_like(label) if sample_weight is None else ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        )
        shape = (self.users, self.bins)
        self.clicked.assign_add(ops.cast(ops.scatter(place, label * weight, shape), self.clicked.dtype))
        self.others.assign_add(ops.cast(ops.scatter(place, (1 - label) * weight, shape), self.others.dtype))

    def result(self) -> Any:
        """Not a number where no user has both labels."""
        clicked, others = ops.convert_to_tensor(self.clicked), ops.convert_to_tensor(self.others)
        below = ops.cumsum(others, axis=1) - others
        won = ops.sum(clicked * (below + 0.5 * others), axis=1)  # pairs in the right order, ties half
        positives, negatives = ops.sum(clicked, axis=1), ops.sum(others, axis=1)
        both = ops.cast((positives > 0) & (negatives > 0), won.dtype)
        area = won / ops.maximum(positives * negatives, 1e-9)
        rows = (positives + negatives) * both
        total = ops.sum(rows)
        return ops.where(total > 0, ops.sum(area * rows) / ops.maximum(total, 1e-9), float("nan"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "users": self.users, "bins": self.bins}
