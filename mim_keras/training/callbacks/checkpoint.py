"""Checkpoints from which an interrupted training resumes as if uninterrupted; bitwise so with `deterministic`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from mim_keras.training.variable_paths import mutable_variables

log = logging.getLogger("mim")
FILE = "checkpoint.npz"
FINISHED = 1 << 30  # epochs of a training that stopped early


class CheckpointFiles(NamedTuple):
    """Where the checkpoints of a training lie.

    Attributes:
        folder, fingerprint, on_write: As `Checkpoint` takes them.
    """

    folder: Path
    fingerprint: object
    on_write: Callable[[], None] | None = None


class Checkpoint(keras.callbacks.Callback):
    """Writes, after each epoch, all that the next epoch depends on.

    That is: weights, queues, optimizer state, random number generators, metrics so far, and the state of early
    stopping. Variables are saved by their path; frozen data (item table, tower features) are not saved.  With several
    workers the first one writes and all read, so all must see `folder`.

    Args:
        folder: Where the file goes; it is replaced atomically.
        fingerprint: JSON values that must be equal for a checkpoint to be resumed, such as settings and inputs.
        on_write: Called by the worker that writes, after each checkpoint.
        early_stopping: The callback that stops early, if there is one.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: object,
        on_write: Callable[[], None] | None = None,
        early_stopping: keras.callbacks.EarlyStopping | None = None,
    ) -> None:
        super().__init__()
        self._file, self._on_write = folder / FILE, on_write
        self._fingerprint = hashlib.sha256(json.dumps(fingerprint, sort_keys=True, default=str).encode()).hexdigest()
        self._early_stopping = early_stopping
        self._history: dict[str, list[float]] = {}
        self._stopping: dict[str, Any] = {}
        self._best_weights: list[np.ndarray] = []

    def restore(self, model: keras.Model) -> tuple[int, dict[str, list[float]]]:
        """Restores a built and compiled model; returns the epochs that are done, and their metrics.

        0 epochs where there is no checkpoint, or it is of another training; `FINISHED` where training stopped early.
        """
        if not self._file.is_file():
            return 0, {}
        with np.load(self._file) as values:
            facts = json.loads(str(values["facts"]))
            variables = mutable_variables(model)
            shapes = {path: list(variable.shape) for path, variable in variables.items()}
            if facts["fingerprint"] != self._fingerprint or facts["shapes"] != shapes:
                log.info("the checkpoint in %s is of another training, and is ignored", self._file.parent)
                return 0, {}
            for path, variable in variables.items():
                variable.assign(values[f"variable {path}"])
            self._best_weights = [values[f"best {index}"] for index in range(facts["best"])]
        self._history, self._stopping = facts["history"], facts["stopping"]
        stopped = bool(self._stopping.get("stopped_epoch"))
        history = {name: list(values) for name, values in self._history.items()}
        return FINISHED if stopped else facts["epochs"], history

    def on_train_begin(self, logs: Any = None) -> None:
        if self._early_stopping is not None and self._history:  # Keras has just reset it
            for name, value in self._stopping.items():
                setattr(self._early_stopping, name, value)
            self._early_stopping.best_weights = self._best_weights or None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(float(value))
        variables = mutable_variables(self.model)
        values = {f"variable {path}": ops.convert_to_numpy(variable) for path, variable in variables.items()}
        stopping, best = {}, []
        if self._early_stopping is not None:
            names = ("wait", "best", "best_epoch", "stopped_epoch")
            stopping = {name: getattr(self._early_stopping, name) for name in names}
            best = list(self._early_stopping.best_weights or [])
        facts = {
            "fingerprint": self._fingerprint,
            "epochs": epoch + 1,
            "shapes": {path: list(variable.shape) for path, variable in variables.items()},
            "history": self._history,
            "stopping": {name: None if value is None else float(value) for name, value in stopping.items()},
            "best": len(best),
        }
        if not is_first_worker():
            return
        values |= {f"best {index}": value for index, value in enumerate(best)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, facts=np.array(json.dumps(facts)), **values)
        os.replace(part, self._file)
        if self._on_write is not None:
            self._on_write()


def delete_checkpoint(folder: Path) -> None:
    """Deletes the checkpoints in `folder` and below, once the trained model is saved elsewhere."""
    if is_first_worker():
        for file in folder.rglob(FILE):
            file.unlink(missing_ok=True)


def is_first_worker() -> bool:
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    return task.get("type", "worker") in ("worker", "chief") and task.get("index", 0) == 0
