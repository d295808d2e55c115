"""InfoNCE over one row of candidates for each query."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

MASKED_LOGIT = -1e9


def mask_logits(logits: Any, mask: Any) -> Any:
    """Logits [B, N], very small where `mask` bool [B, N] is true."""
    return ops.where(mask, ops.cast(MASKED_LOGIT, logits.dtype), logits)


@keras.saving.register_keras_serializable("mim")
class InfoNCE(keras.losses.Loss):
    """Cross-entropy of picking each query's positive among its candidates.

    Call arguments:
        y_true: Column of the positive of each query, int [B] or [B, 1].
        y_pred: Similarities over temperature, float [B, N]; masked candidates by `mask_logits`.

    Returns:
        The mean over queries, weighted by `sample_weight`.

    Example:
        >>> import numpy as np
        >>> from mim_keras.losses import InfoNCE
        >>> logits = np.log(np.array([[3.0, 1.0, 1.0]], "float32"))
        >>> round(float(InfoNCE()(np.array([0]), logits)), 4)  # −log(3 / 5)
        0.5108

    Source: van den Oord et al. 2018 (1807.03748).
    """

    def __init__(self, reduction: str = "mean_with_sample_weight", name: str = "info_nce", **kwargs: Any) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_pred.shape) != 2:
            raise ValueError(f"InfoNCE: `y_pred` must have shape (batch, candidates); received shape {y_pred.shape}.")
        positive = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        return ops.logsumexp(y_pred, axis=-1) - ops.take_along_axis(y_pred, positive, axis=1)[:, 0]  # (B,)

    def get_config(self) -> dict[str, Any]:
        return {"reduction": self.reduction, "name": self.name}
