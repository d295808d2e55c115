"""What a training that was cut off needs to go on from where it was, to the very bit."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

log = logging.getLogger("mim")
FILE = "checkpoint.npz"
_ALL = 1 << 30  # epochs


class Checkpoints(keras.callbacks.Callback):
    """After each epoch, writes everything that the next one depends on: weights, queues, the optimizer's state, the
    generators of random numbers, the figures so far, and where early stopping stands.

    Args:
        folder: Where the file goes; written anew at each epoch, in one step, so that it is always whole.
        told: What must be the same for a checkpoint to fit, say settings and inputs; another one's is left aside.
        early: The callback that stops early, if there is one.

    Among several worker processes the first one writes and all of them read, so that they go on from one epoch: the
    folder must be one that all of them see.
    """

    def __init__(self, folder: Path, told: object, early: keras.callbacks.EarlyStopping | None = None) -> None:
        super().__init__()
        self._file = folder / FILE
        self._told = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
        self._early, self._history = early, {}  # type: tuple[Any, dict[str, list[float]]]

    def restore(self, model: keras.Model) -> tuple[int, dict[str, list[float]]]:
        """Sets a built and compiled model to the checkpoint; returns how many epochs were done, and their figures.

        None, where there is no checkpoint or it is of another training; more than any settings ask for, where the
        training had stopped early.
        """
        if not self._file.is_file():
            return 0, {}
        with np.load(self._file) as values:
            facts = json.loads(str(values["facts"]))
            variables = _state(model)
            shapes = [list(variable.shape) for variable in variables]
            if facts["told"] != self._told or facts["shapes"] != shapes:
                log.info("the checkpoint in %s is of another training, and left aside", self._file.parent)
                return 0, {}
            for place, variable in enumerate(variables):
                variable.assign(values[f"variable {place}"])
            self._best = [values[f"best {place}"] for place in range(facts["best"])]
        self._history, self._stopping = facts["history"], facts["stopping"]
        stopped = bool(self._stopping.get("stopped_epoch"))
        return _ALL if stopped else facts["epochs"], {name: list(values) for name, values in self._history.items()}

    def on_train_begin(self, logs: Any = None) -> None:
        if self._early is not None and self._history:  # Keras has just set it back
            for name, value in self._stopping.items():
                setattr(self._early, name, value)
            self._early.best_weights = self._best or None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(float(value))
        values = {f"variable {place}": ops.convert_to_numpy(one) for place, one in enumerate(_state(self.model))}
        stopping, best = {}, []
        if self._early is not None:
            stopping = {name: getattr(self._early, name) for name in ("wait", "best", "best_epoch", "stopped_epoch")}
            best = list(self._early.best_weights or [])
        facts = {
            "told": self._told,
            "epochs": epoch + 1,
            "shapes": [list(variable.shape) for variable in _state(self.model)],
            "history": self._history,
            "stopping": {name: None if value is None else float(value) for name, value in stopping.items()},
            "best": len(best),
        }
        if not _is_first_worker():
            return
        values |= {f"best {place}": value for place, value in enumerate(best)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, facts=np.array(json.dumps(facts)), **values)
        os.replace(part, self._file)


def forget(folder: Path) -> None:
    """Takes the checkpoint in `folder` away, once what was trained is kept elsewhere."""
    if _is_first_worker():
        (folder / FILE).unlink(missing_ok=True)


def _state(model: keras.Model) -> list[Any]:
    """Everything that changes in training."""
    optimizer = model.optimizer
    return [*model.variables, *(optimizer.variables if optimizer is not None else [])]


def _is_first_worker() -> bool:
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    return task.get("type", "worker") in ("worker", "chief") and task.get("index", 0) == 0
