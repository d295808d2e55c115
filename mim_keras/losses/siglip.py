"""Image-text alignment as SigLIP does it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.losses.clip import check_pairs, mean_weights


@keras.saving.register_keras_serializable("mim")
class SigLIPLoss(keras.losses.Loss):
    """Binary classification of every image-text combination of a batch; rows without both modalities are masked out.

    Call arguments:
        y_true: 1 where a row has both modalities, float [B].
        y_pred: Similarities of every image with every text, over temperature and with the learned bias, float [B, B].

    Returns:
        The sum over texts, as a mean over the images of rows that have both.

    Example:
        >>> import numpy as np
        >>> from mim_keras.losses import SigLIPLoss
        >>> round(float(SigLIPLoss()(np.ones(2), np.zeros((2, 2), "float32"))), 4)  # 2 log 2
        1.3863

    Source: SigLIP (2303.15343).
    """

    def __init__(self, reduction: str = "mean_with_sample_weight", name: str = "siglip_loss", **kwargs: Any) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        pair_mask = check_pairs(self, y_true, y_pred)
        sign = 2.0 * ops.eye(ops.shape(y_pred)[0], dtype=y_pred.dtype) - 1.0
        pair_losses = -ops.log_sigmoid(sign * y_pred) * pair_mask[None, :]  # (B, B)
        return ops.sum(pair_losses, axis=1) * mean_weights(pair_mask)

    def get_config(self) -> dict[str, Any]:
        return {"reduction": self.reduction, "name": self.name}
