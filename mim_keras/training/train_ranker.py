"""The training of a ranker: content warm-up, early stopping on a validation metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from mim_keras.models import ContentBranch, Ranker
from mim_keras.training.callbacks import CheckpointFiles
from mim_keras.training.epoch_dataset import EpochDataset
from mim_keras.training.run_training import EarlyStopping, History, TrainingRun, compile_model, run_training


def compile_ranker(model: Ranker, steps: int) -> None:
    """Compiles a ranker with its settings; call in the strategy's scope.

    Args:
        model: A ranker.
        steps: Of an epoch.
    """
    config = model.config
    compile_model(model, config.training, (config.training.epochs - config.content_warmup_epochs) * steps)


def train_ranker(
    model: Ranker,
    train: EpochDataset,
    evaluate: Callable[[], dict[str, float]] | None = None,
    log_folder: Path | None = None,
    checkpoint: CheckpointFiles | None = None,
) -> History:
    """Trains a compiled ranker with its settings; returns its metrics, one list a name.

    The first `content_warmup_epochs` train the content head alone (MAKE); they neither stop a training nor are kept.

    Args:
        model: From `compile_ranker`.
        train: E.g. from `ranking_dataset`.
        evaluate: Returns validation metrics, `training.monitor` among them where the settings have a patience.
        log_folder, checkpoint: See `TrainingRun`.
    """
    config = model.config
    warmup, training = config.content_warmup_epochs, config.training
    if warmup:
        with (model.distribute_strategy or tf.distribute.get_strategy()).scope():
            branch = ContentBranch(model)
            compile_model(branch, training, warmup * train.steps)
        own = None if checkpoint is None else checkpoint._replace(folder=checkpoint.folder / "content")
        run_training(branch, train, TrainingRun("ciubm content", warmup, checkpoint=own))
        branch.release()
    stops = training.patience and evaluate is not None
    early_stopping = EarlyStopping(training.monitor, training.patience) if stops else None
    run = TrainingRun("ciubm", training.epochs - warmup, evaluate, early_stopping, (), log_folder, checkpoint)
    return run_training(model, train, run)
