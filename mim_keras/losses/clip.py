"""Image-text alignment as CLIP does it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.losses.info_nce import mask_logits


@keras.saving.register_keras_serializable("mim")
class CLIPLoss(keras.losses.Loss):
    """Symmetric InfoNCE of images and texts over a batch; rows without both modalities are masked out.

    Call arguments:
        y_true: 1 where a row has both modalities, float [B].
        y_pred: Similarities of every image with every text, over temperature, float [B, B].

    Returns:
        The mean over rows that have both, of half the image → text and half the text → image loss.

    Example:
        >>> import numpy as np
        >>> from mim_keras.losses import CLIPLoss
        >>> round(float(CLIPLoss()(np.ones(2), np.zeros((2, 2), "float32"))), 4)  # log 2
        0.6931

    Source: CLIP (2103.00020).
    """

    def __init__(self, reduction: str = "mean_with_sample_weight", name: str = "clip_loss", **kwargs: Any) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        pair_mask = check_pairs(self, y_true, y_pred)
        diagonal = ops.diagonal(y_pred)
        is_absent = ops.logical_and(pair_mask[None, :] < 0.5, ops.eye(ops.shape(y_pred)[0]) < 0.5)
        forward = ops.logsumexp(mask_logits(y_pred, is_absent), axis=-1) - diagonal
        backward = ops.logsumexp(mask_logits(ops.transpose(y_pred), is_absent), axis=-1) - diagonal
        return 0.5 * (forward + backward) * mean_weights(pair_mask)

    def get_config(self) -> dict[str, Any]:
        return {"reduction": self.reduction, "name": self.name}


def check_pairs(loss: keras.losses.Loss, y_true: Any, y_pred: Any) -> Any:
    """The pair mask as float32 [B]; raises ValueError unless `y_pred` is a square matrix."""
    shape = y_pred.shape
    if len(shape) != 2 or (None not in shape and shape[0] != shape[1]):
        raise ValueError(f"{type(loss).__name__}: `y_pred` must have shape (batch, batch); received shape {shape}.")
    return ops.cast(ops.reshape(y_true, (-1,)), "float32")


def mean_weights(mask: Any) -> Any:
    """Weights [B] whose mean over all rows is a mean over the rows of `mask`; zeros where the mask is empty."""
    rows = ops.cast(ops.shape(mask)[0], "float32")
    return mask * rows / ops.maximum(ops.sum(mask), 1.0)
