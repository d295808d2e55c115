"""An interrupted training resumes as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from mim_keras.config import TrainingConfig
from mim_keras.training.callbacks import CheckpointFiles, delete_checkpoint
from mim_keras.training.callbacks.checkpoint import FILE
from mim_keras.training.epoch_dataset import EpochDataset, shuffle_and_batch
from mim_keras.training.ranking_dataset import ranking_dataset
from mim_keras.training.run_training import (
    EarlyStopping,
    TrainingRun,
    compile_model,
    make_optimizer,
    run_training,
    set_seed_and_precision,
)
from mim_keras.training.strategy import make_strategy
from mim_keras.training.train_ranker import compile_ranker, train_ranker
from mim_keras.training.variable_paths import mutable_variables
from tests.mim_keras import tiny
from tests.mim_keras.training.plug import Plug, PulledPlug

ROWS, BATCH = 96, 16
ALIKE: dict[str, Any] = {"batch_size": BATCH, "learning_rate": 0.01, "deterministic": True}
Trained = tuple[dict, list[np.ndarray]]


@pytest.fixture(autouse=True)
def undo_determinism() -> Iterator[None]:
    yield
    disable_op_determinism()


def values(variables: list[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def clicks() -> tuple[dict, np.ndarray]:
    x = tiny.ranker_inputs(ROWS)
    return x, (x["item_row"] % 2).astype("float32")


def train_clicks(folder: Path, training: TrainingConfig, plug: Plug | None = None) -> Trained:
    set_seed_and_precision(training)
    with make_strategy(training).scope():
        model = tiny.ranker(dropout=0.2)
        model.compile(optimizer=make_optimizer(training, training.epochs * ROWS // BATCH), jit_compile=False)

    def evaluate() -> dict[str, float]:
        weight = float(keras.ops.convert_to_numpy(model.head.logit.kernel).sum())
        return {"gauc": abs(np.sin(40 * weight))}  # up and down, so that an early epoch is the best

    run = TrainingRun(
        "ciubm",
        training.epochs,
        evaluate,
        EarlyStopping("gauc", training.patience) if training.patience else None,
        [plug] if plug else [],
        checkpoint=CheckpointFiles(folder, ["ciubm", training.epochs]),
    )
    history = run_training(model, ranking_dataset(*clicks(), BATCH, training.seed, 0.3), run)
    return history, values(model.trainable_variables)


def train_pairs(folder: Path, training: TrainingConfig, plug: Plug | None = None) -> Trained:
    set_seed_and_precision(training)
    with make_strategy(training).scope():
        model = tiny.csft(queue_size=48, align_weight=0.0, modality_dropout=0.3)
        model.compile(optimizer=make_optimizer(training, training.epochs * ROWS // BATCH), jit_compile=False)
    examples = tf.data.Dataset.from_tensor_slices(tiny.pairs(ROWS))
    batches = EpochDataset(lambda seed: shuffle_and_batch(examples, ROWS, seed, BATCH), training.seed, ROWS // BATCH)
    run = TrainingRun(
        "csft", training.epochs, callbacks=[plug] if plug else [], checkpoint=CheckpointFiles(folder, ["csft"])
    )
    history = run_training(model, batches, run)
    queue = model.queues["joint"]
    return history, values([*model.trainable_variables, queue.embeddings, queue.item_rows])


def check_equal(one: Trained, other: Trained, tolerance: float = 0) -> None:
    assert one[0] == other[0]
    for first, second in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=tolerance)


@pytest.mark.parametrize("train", [train_clicks, train_pairs])
@pytest.mark.parametrize("at", [(2, 3), (0, 1), (3, 5)])
def test_an_interrupted_training_ends_as_a_whole_one(
    train: Callable[..., Trained], at: tuple[int, int], tmp_path: Path
) -> None:
    training = TrainingConfig(epochs=4, schedule="cosine", warmup_steps=3, **ALIKE)
    whole = train(tmp_path / "whole", training)
    with pytest.raises(PulledPlug):
        train(tmp_path / "cut", training, Plug(*at))
    check_equal(train(tmp_path / "cut", training), whole)
    assert (tmp_path / "cut" / FILE).is_file()
    delete_checkpoint(tmp_path)
    assert not list(tmp_path.rglob(FILE))


def test_a_training_that_stopped_early_stays_stopped_and_keeps_its_best(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=9, patience=2, **ALIKE)
    whole = train_clicks(tmp_path / "whole", training)
    epochs = len(whole[0]["loss"])
    assert epochs < 9
    with pytest.raises(PulledPlug):
        train_clicks(tmp_path / "cut", training, Plug(epochs - 1, 2))
    check_equal(train_clicks(tmp_path / "cut", training), whole, 1e-7)
    assert train_clicks(tmp_path / "cut", training)[0] == whole[0]  # finished: nothing is trained


def test_the_checkpoint_of_another_training_is_ignored(tmp_path: Path) -> None:
    longer, shorter = (TrainingConfig(epochs=epochs, **ALIKE) for epochs in (3, 2))
    with pytest.raises(PulledPlug):
        train_clicks(tmp_path, longer, Plug(1, 2))
    check_equal(train_clicks(tmp_path, shorter), train_clicks(tmp_path / "alone", shorter))


def test_data_are_in_no_checkpoint(tmp_path: Path) -> None:
    train_clicks(tmp_path, TrainingConfig(epochs=1, **ALIKE))
    with np.load(tmp_path / FILE) as saved:
        assert not any("item_table" in name for name in saved.files)
        assert "variable head/logit/kernel" in saved.files
        assert sum("optimizer/" in name for name in saved.files) > 10


def test_names_of_variables_do_not_depend_on_what_was_made_before() -> None:
    names = []
    for _ in range(2):
        model = tiny.csft(queue_size=16, momentum=0.9)
        model.compile(optimizer="adam")
        model.optimizer.build(model.trainable_variables)
        names.append(list(mutable_variables(model)))
    assert names[0] == names[1]
    assert len(names[0]) == len(set(names[0]))
    assert {"queues/joint/embeddings", "momentum_encoder/ema_variables/0"} <= set(names[0])


def test_a_resumed_content_warmup_ends_as_a_whole_one(tmp_path: Path) -> None:
    settings = {
        "training": {"epochs": 4, "jit_compile": False, "steps_per_execution": 1, **ALIKE},
        "content_warmup_epochs": 2,
    }

    def train(folder: Path, plug: Plug | None = None) -> Trained:
        config = tiny.ranker_config(**settings)
        set_seed_and_precision(config.training)
        model = tiny.any_ranker(config)
        batches = ranking_dataset(*clicks(), BATCH, config.training.seed)
        compile_ranker(model, batches.steps)
        if plug is not None:
            fit = model.fit
            model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, plug], **k)
        history = train_ranker(model, batches, checkpoint=CheckpointFiles(folder, "one"))
        return history, values(model.trainable_variables)

    whole = train(tmp_path / "whole")
    assert len(whole[0]["loss"]) == 2
    with pytest.raises(PulledPlug):
        train(tmp_path / "cut", Plug(1, 2))
    check_equal(train(tmp_path / "cut"), whole)
    delete_checkpoint(tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob(FILE))


def test_only_what_a_strategy_can_do_is_compiled() -> None:
    model = tiny.ranker()
    compile_model(model, TrainingConfig(jit_compile=True, steps_per_execution=3), 10)
    assert (model.jit_compile, model.steps_per_execution) == (True, 3)
