"""Progress as log lines."""

from __future__ import annotations

import logging
import time
from typing import Any

import keras

log = logging.getLogger("mim")


class Progress(keras.callbacks.Callback):
    """Logs one line an epoch, and one every `seconds` within it.

    Args:
        stage: Name of what is trained.
        epochs: Of the training.
        steps_per_batch: Steps that Keras counts as one batch.
        seconds: Between two lines of an epoch.
    """

    def __init__(self, stage: str, epochs: int, steps_per_batch: int = 1, seconds: float = 15.0) -> None:
        super().__init__()
        self._stage, self._epochs, self._steps_per_batch, self._seconds = stage, epochs, steps_per_batch, seconds

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._started = epoch + 1, time.monotonic()
        self._next = self._started + self._seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._log(f"step {(batch + 1) * self._steps_per_batch}", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._log(f"done in {time.monotonic() - self._started:.1f} s", logs)

    def _log(self, what: str, logs: dict[str, Any] | None) -> None:
        metrics = "  ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        log.info("%s epoch %d/%d %s  %s", self._stage, self._epoch, self._epochs, what, metrics)
