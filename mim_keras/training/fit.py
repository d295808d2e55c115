"""One way to train any of the three stages."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mim_keras.config import TrainingConfig
from mim_keras.training.batches import Epochs
from mim_keras.training.checkpoints import Checkpoints
from mim_keras.training.stage_model import StageModel
from mim_keras.training.step_groups import in_groups, steps_of

log = logging.getLogger("mim")


def optimizer(config: TrainingConfig, steps: int | None = None) -> keras.optimizers.Optimizer:
    """Adam with the settings' learning rate, schedule and gradient clipping.

    Args:
        config: Of the stage.
        steps: Of the whole training; what a schedule that falls must know.
    """
    rate: Any = config.learning_rate
    if config.schedule == "cosine" and steps:
        falling = max(1, steps - config.warmup_steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if config.warmup_steps else rate,
            falling,
            warmup_target=rate if config.warmup_steps else None,
            warmup_steps=config.warmup_steps,
        )
    elif config.warmup_steps:
        rate = keras.optimizers.schedules.PolynomialDecay(1e-9, config.warmup_steps, end_learning_rate=rate)
    return keras.optimizers.Adam(rate, global_clipnorm=config.clip_norm or None)


def make_ready(model: StageModel, config: TrainingConfig, steps: int) -> None:
    """Compiles a model as the settings say, for a training of so many steps; call in the strategy's scope.

    Several replicas train without XLA and a step at a time: TensorFlow can do neither of them across replicas.  With
    XLA, several steps an execution are the model's own loop, over what `as_executed` makes of the batches; not in the
    scope of a strategy, even of one replica, which TensorFlow lets no loop of ours go through.
    """
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if not alone and (config.jit_compile or config.steps_per_execution > 1):
        log.info("several replicas: jit_compile and steps_per_execution are left out")
    jit_compile, together = config.jit_compile and alone, config.steps_per_execution if alone else 1
    model.steps_in_loop = together if jit_compile and not tf.distribute.has_strategy() else 1
    model.compile(
        optimizer=optimizer(config, steps),
        jit_compile=jit_compile,
        steps_per_execution=together,
    )


def as_executed(train: tf.data.Dataset, model: keras.Model) -> tf.data.Dataset:
    """Batches as the model takes them: in groups where `make_ready` has it loop over several steps, and groups can be
    made of the batches; what a group does not hold of the steps of an execution is left to Keras."""
    if not isinstance(model, StageModel) or model.steps_in_loop == 1:
        return train
    grouped = in_groups(train, model.steps_in_loop)
    model.steps_per_execution = model.steps_in_loop // steps_of(grouped)
    return grouped


def seeded(config: TrainingConfig) -> None:
    """Seeds every generator and sets the precision policy; call before a model is made."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(config.mixed_precision)


class ValidationFigures(keras.callbacks.Callback):
    """After each epoch, adds figures that `measure()` returns to the logs, as `val_NAME`."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self._measure = measure

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        logs.update({f"val_{name}": value for name, value in self._measure().items()})


class Progress(keras.callbacks.Callback):
    """One plain line an epoch, and one every `seconds` within it; `together` steps are one to Keras."""

    def __init__(self, stage: str, epochs: int, together: int = 1, seconds: float = 15.0) -> None:
        super().__init__()
        self._stage, self._epochs, self._together, self._seconds = stage, epochs, together, seconds

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._started = epoch + 1, time.monotonic()
        self._next = self._started + self._seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._say(f"step {(batch + 1) * self._together}", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._say(f"done in {time.monotonic() - self._started:.1f} s", logs)

    def _say(self, what: str, logs: dict[str, Any] | None) -> None:
        figures = "  ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        log.info("%s epoch %d/%d %s  %s", self._stage, self._epoch, self._epochs, what, figures)


def fit(
    stage: str,
    model: keras.Model,
    train: Epochs | tf.data.Dataset,
    config: TrainingConfig,
    measure: Callable[[], dict[str, float]] | None = None,
    monitor: str = "",
    judged_after: int = 0,
    log_folder: Path | None = None,
    watch: keras.callbacks.Callback | None = None,
    checkpoints: tuple[Path, object] | None = None,
) -> dict[str, list[float]]:
    """Trains a compiled `model` and returns its figures, one list a name.

    Args:
        stage: Name for progress lines.
        model: Compiled under the strategy it is to run on.
        train: Batches; `Epochs` where they are random.
        config: Epochs and patience.
        measure: Gives validation figures; called after each epoch.
        monitor: Name of the figure to stop on and to keep the best weights by; higher is better.
        judged_after: How many epochs come first that neither stop the training nor are kept: those that train a part.
        log_folder: Where TensorBoard's events and `history.json` go.
        watch: Looks on, before the progress line is written.
        checkpoints: Folder and what must be the same (`Checkpoints`): a training that was cut off goes on after the
            last epoch that was whole, and its figures are those of one that was not.  The file stays; `forget` takes it
            away once what was trained is kept elsewhere.

    Raises:
        ValueError: there is no batch.
    """
    if isinstance(train, Epochs) and train.steps < 1:
        raise ValueError(
            f"{stage}: there are fewer rows than a batch, so no step; received 0. Lower training.batch_size."
        )
    callbacks: list[keras.callbacks.Callback] = []
    dataset = train
    if isinstance(train, Epochs):
        dataset = train.dataset
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train.begin(epoch)))
    if not (model.built and model.optimizer.built):
        _build(model, dataset)
    dataset = as_executed(dataset, model)
    if measure is not None:
        callbacks.append(ValidationFigures(measure))
    if watch is not None:
        callbacks.append(watch)
    callbacks.append(Progress(stage, config.epochs, steps_of(dataset)))
    early = None
    if monitor and config.patience:
        early = keras.callbacks.EarlyStopping(
            f"val_{monitor}",
            mode="max",
            patience=config.patience,
            restore_best_weights=True,
            start_from_epoch=judged_after,
        )
        callbacks.append(early)
    done, keeper = 0, None
    before: dict[str, list[float]] = {}
    if checkpoints is not None:
        keeper = Checkpoints(*checkpoints, early)
        with (model.distribute_strategy or tf.distribute.get_strategy()).scope():
            done, before = keeper.restore(model)
        done = min(done, config.epochs)
        if done:
            log.info("%s: goes on after epoch %d of %d, from its checkpoint", stage, done, config.epochs)
        callbacks.append(keeper)
    if log_folder is not None:
        callbacks.append(keras.callbacks.TensorBoard(str(log_folder), update_freq="epoch", write_graph=False))
    history = model.fit(
        dataset, epochs=config.epochs, initial_epoch=done, verbose=0, callbacks=callbacks, shuffle=False
    ).history
    names = [*before, *(name for name in history if name not in before)]
    figures = {name: [*before.get(name, []), *map(float, history.get(name, []))] for name in names}
    if log_folder is not None:
        log_folder.mkdir(parents=True, exist_ok=True)
        (log_folder / "history.json").write_text(json.dumps(figures, indent=2))
    return figures


def _build(model: keras.Model, train: tf.data.Dataset) -> None:
    """Makes the variables by one call: the symbolic build inside Keras' `fit` loses integer dtypes when a batch is
    spread over several replicas."""
    batch = next(iter(train))
    with (model.distribute_strategy or tf.distribute.get_strategy()).scope():
        model(batch[0] if isinstance(batch, tuple) else batch)
        model.optimizer.build(model.trainable_variables)
