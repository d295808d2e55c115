"""One way to train any of the three stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mim_keras.config import TrainingConfig
from mim_keras.models.base import StageModel
from mim_keras.optimizers import RowwiseAdam
from mim_keras.training.callbacks import Checkpoint, CheckpointFiles, Progress, ValidationMetrics
from mim_keras.training.compiled_steps import group_batches, steps_per_element
from mim_keras.training.epoch_dataset import EpochDataset

log = logging.getLogger("mim")
History = dict[str, list[float]]
NOT_DECAYED = ["bias", "embeddings", "gamma", "beta", "temperature"]  # names of variables


def make_optimizer(
    config: TrainingConfig, steps: int | None = None, rowwise: Mapping[str, Any] | None = None
) -> keras.optimizers.Optimizer:
    """Adam with the learning rate, schedule and gradient clipping of the settings.

    Args:
        config: Of the stage.
        steps: Of the whole training, for a schedule that falls to zero.
        rowwise: Arguments of `RowwiseAdam`, for a model with tables that are updated by rows.
    """
    rate: Any = config.learning_rate
    if config.schedule == "cosine" and steps:
        decay_steps = max(1, steps - config.warmup_steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if config.warmup_steps else rate,
            decay_steps,
            warmup_target=rate if config.warmup_steps else None,
            warmup_steps=config.warmup_steps,
        )
    elif config.warmup_steps:
        rate = keras.optimizers.schedules.PolynomialDecay(1e-9, config.warmup_steps, end_learning_rate=rate)
    decay = config.weight_decay or None
    options: dict[str, Any] = {"weight_decay": decay, "global_clipnorm": config.clip_norm or None}
    optimizer = RowwiseAdam(rate, **rowwise, **options) if rowwise else keras.optimizers.Adam(rate, **options)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


def set_seed_and_precision(config: TrainingConfig) -> None:
    """Seeds every generator and sets the dtype policy; call before a model is made."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(config.mixed_precision)


def compile_model(model: StageModel, config: TrainingConfig, steps: int, **options: Any) -> None:
    """Compiles a model with the settings, for a training of `steps` steps; call in the strategy's scope.

    Several replicas train without XLA and one step an execution, since TensorFlow can do neither across replicas.

    Args:
        model: Of a stage.
        config: Of the stage.
        steps: Of the whole training.
        options: Of `keras.Model.compile`: loss, metrics, …
    """
    single_replica = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if not single_replica and (config.jit_compile or config.steps_per_execution > 1):
        log.info("several replicas: jit_compile and steps_per_execution are ignored")
    model.compile(
        optimizer=make_optimizer(config, steps, model.rowwise_options()),
        jit_compile=config.jit_compile and single_replica,
        steps_per_execution=config.steps_per_execution if single_replica else 1,
        **options,
    )


@dataclass(frozen=True)
class EarlyStopping:
    """Stops after `patience` epochs without a better validation metric, and restores the best weights.

    Attributes:
        monitor: Name of a validation metric; higher is better, but for `logloss`.
        patience: Epochs.
    """

    monitor: str
    patience: int

    def callback(self) -> keras.callbacks.EarlyStopping:
        """As a Keras callback."""
        return keras.callbacks.EarlyStopping(
            f"val_{self.monitor}",
            mode="min" if self.monitor == "logloss" else "max",
            patience=self.patience,
            restore_best_weights=True,
        )


@dataclass(frozen=True)
class TrainingRun:
    """What a training does beside fitting.

    Attributes:
        stage: Name for log lines.
        epochs: To train; with 0 the model stays as it is.
        evaluate: Returns validation metrics; called after each epoch.
        early_stopping: None trains all epochs.
        callbacks: Further ones, called before the progress is logged.
        log_folder: Where TensorBoard's events and `history.json` go.
        checkpoint: See `Checkpoint`: an interrupted training resumes after its last whole
            epoch. `delete_checkpoint` deletes the file once the result is saved elsewhere.
    """

    stage: str
    epochs: int
    evaluate: Callable[[], dict[str, float]] | None = None
    early_stopping: EarlyStopping | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    log_folder: Path | None = None
    checkpoint: CheckpointFiles | None = None


def run_training(model: keras.Model, train: EpochDataset | tf.data.Dataset, run: TrainingRun) -> History:
    """Fits a built and compiled model; returns its metrics, one list a name.

    Args:
        model: Compiled in the scope of its strategy, e.g. by `compile_model`.
        train: Batches; an `EpochDataset` where they are random.
        run: What else is to be done.

    Raises:
        ValueError: there is no batch.
    """
    dataset, callbacks = _dataset(train, run)
    dataset = group_batches(dataset, model)
    if run.evaluate is not None:
        callbacks.append(ValidationMetrics(run.evaluate))
    callbacks += [*run.callbacks, Progress(run.stage, run.epochs, steps_per_element(dataset))]
    early_stopping = None if run.early_stopping is None else run.early_stopping.callback()
    callbacks += [] if early_stopping is None else [early_stopping]
    initial_epoch = 0
    history: History = {}
    with (model.distribute_strategy or tf.distribute.get_strategy()).scope():
        model.optimizer.build(model.trainable_variables)
        if run.checkpoint is not None:
            checkpoint = Checkpoint(*run.checkpoint, early_stopping=early_stopping)
            initial_epoch, history = checkpoint.restore(model)
            callbacks.append(checkpoint)
    if initial_epoch:
        initial_epoch = min(initial_epoch, run.epochs)
        log.info("%s: resumes after epoch %d of %d, from its checkpoint", run.stage, initial_epoch, run.epochs)
    if run.log_folder is not None:
        callbacks.append(keras.callbacks.TensorBoard(str(run.log_folder), update_freq="epoch", write_graph=False))
    options = {"epochs": run.epochs, "initial_epoch": initial_epoch, "verbose": 0, "shuffle": False}
    new = model.fit(dataset, callbacks=callbacks, **options).history if run.epochs else {}
    history = {name: [*history.get(name, []), *map(float, new.get(name, []))] for name in {**history, **new}}
    if run.log_folder is not None:
        run.log_folder.mkdir(parents=True, exist_ok=True)
        (run.log_folder / "history.json").write_text(json.dumps(history, indent=2))
    return history


def _dataset(
    train: EpochDataset | tf.data.Dataset, run: TrainingRun
) -> tuple[tf.data.Dataset, list[keras.callbacks.Callback]]:
    """The dataset, and a callback that sets its epoch."""
    if not isinstance(train, EpochDataset):
        return train, []
    if train.steps < 1:
        raise ValueError(
            f"{run.stage}: a training needs a whole batch; received fewer rows. Lower training.batch_size."
        )
    return train.dataset, [keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train.set_epoch(epoch))]
