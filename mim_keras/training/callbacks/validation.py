"""Validation metrics that are not Keras metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class ValidationMetrics(keras.callbacks.Callback):
    """Adds what `evaluate()` returns to the logs of each epoch, as `val_NAME`."""

    def __init__(self, evaluate: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self._evaluate = evaluate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs |= {f"val_{name}": value for name, value in self._evaluate().items()}
