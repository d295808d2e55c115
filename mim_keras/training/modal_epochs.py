"""Trains the ranker's modal branch alone for its first epochs."""

from __future__ import annotations

from typing import Any

import keras


class ModalEpochs(keras.callbacks.Callback):
    """For so many epochs `CiUBM` learns by its modal branch's own loss; then everything learns together.

    Args:
        epochs: How many.

    Source: MAKE (2407.19467): tables of ids overfit after about an epoch, the content's part does not.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.learn_jointly(epoch >= self._epochs)
