"""Optimizers of models with large embedding tables."""

from mim_keras.optimizers.rowwise_adam import RowwiseAdam

__all__ = ["RowwiseAdam"]
