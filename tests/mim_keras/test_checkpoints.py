"""A training that was cut off goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import CiubmConfig, ContrastTerm, CsftConfig, TrainingConfig, preset
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.item_table import ItemColumns
from mim_keras.training.batches import Epochs, ranking_batches, shuffled
from mim_keras.training.checkpoints import FILE, forget
from mim_keras.training.fit import fit, optimizer, seeded
from mim_keras.training.strategy import make_strategy

ROWS, BATCH = 96, 16
ALIKE: dict[str, Any] = {"batch_size": BATCH, "learning_rate": 0.01, "deterministic": True}


@pytest.fixture(autouse=True)
def sums_in_any_order_again() -> Iterator[None]:
    yield
    disable_op_determinism()


class PulledPlug(Exception):
    """Ends a training as the loss of power would, after so many steps of an epoch."""


class Plug(keras.callbacks.Callback):
    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._at, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self._epoch, batch) == self._at:
            raise PulledPlug


def train_ranker(
    folder: Path, training: TrainingConfig, plug: Plug | None = None, warm: bool = False
) -> tuple[dict, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    seeded(training)
    vectors = rng.integers(-20, 20, (10, 8)).astype(np.int8)
    columns = ItemColumns.assemble(vectors, np.ones(10, bool), [[]] * 10, np.arange(1, 11))
    config = CiubmConfig(history_length=8, id_dim=4, modal_dim=4, hidden=(8,), dropout=0.2, id_dropout=0.3)
    inputs = {
        "item_row": rng.integers(1, 11, ROWS).astype(np.int32),
        "history_rows": rng.integers(0, 11, (ROWS, 8)).astype(np.int32),
        "history_ages": rng.integers(0, 1000, (ROWS, 8)).astype(np.int32),
        "user_index": rng.integers(0, 3, ROWS).astype(np.int32),
    }
    label = rng.integers(0, 2, ROWS).astype(np.float32)
    with make_strategy(training).scope():
        model = CiUBM(config, RankerShape(users=3), columns)
        model.compile(optimizer=optimizer(training, training.epochs * ROWS // BATCH), jit_compile=False)

    if warm:  # built by a call, as a warm start does
        with make_strategy(training).scope():
            model({name: values[:BATCH] for name, values in inputs.items()})

    def measure() -> dict[str, float]:
        weight = float(keras.ops.convert_to_numpy(model.out.kernel).sum())
        return {"gauc": abs(np.sin(40 * weight))}  # goes up and down, so that an early epoch is the best

    figures = fit(
        "ciubm",
        model,
        ranking_batches(inputs, label, BATCH, training.seed, config.id_dropout),
        training,
        measure=measure,
        monitor="gauc",
        watch=plug,
        checkpoints=(folder, ["ciubm", training.epochs]),
    )
    return figures, [keras.ops.convert_to_numpy(value) for value in model.trainable_variables]


def train_csft(folder: Path, training: TrainingConfig, plug: Plug | None = None) -> tuple[dict, list[np.ndarray]]:
    rng = np.random.default_rng(4)
    seeded(training)
    config = preset("tiny").encoder
    features = {
        "image_features": rng.normal(size=(40, 32)).astype("float32"),
        "text_features": rng.normal(size=(40, 16)).astype("float32"),
        "image_mask": np.ones(40, "float32"),
        "text_mask": np.ones(40, "float32"),
    }
    settings = CsftConfig(
        terms=(ContrastTerm(pools=("batch", "time")),), queue_size=48, align_weight=0.0, modality_dropout=0.3
    )
    with make_strategy(training).scope():
        encoder = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
        encoder.build()
        encoder.freeze_towers()
        model = Csft(encoder, settings, np.zeros(40, "float32"), features, query_items=2)
        model.compile(optimizer=optimizer(training, training.epochs * ROWS // BATCH), jit_compile=False)
    rows, key = rng.integers(0, 40, (ROWS, 3)).astype(np.int32), rng.integers(0, 20, ROWS).astype(np.int32)
    examples = tf.data.Dataset.from_tensor_slices({"rows": rows, "key": key})
    batches = Epochs(lambda epoch: shuffled(examples, ROWS, epoch, BATCH), training.seed, ROWS // BATCH)
    figures = fit("csft", model, batches, training, watch=plug, checkpoints=(folder, ["csft", training.epochs]))
    kept = [*model.trainable_variables, model.queues["joint"].vectors, model.queues["joint"].rows]
    return figures, [keras.ops.convert_to_numpy(value) for value in kept]


Train = Callable[..., tuple[dict, list[np.ndarray]]]


@pytest.mark.parametrize("train", [train_ranker, train_csft])
@pytest.mark.parametrize("at", [(2, 3), (0, 1), (3, 5)])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    train: Train, at: tuple[int, int], tmp_path: Path
) -> None:
    """On two replicas: see `mirrored_script.py`."""
    training = TrainingConfig(epochs=4, schedule="cosine", warmup_steps=3, patience=4, **ALIKE)
    figures, weights = train(tmp_path / "whole", training)
    with pytest.raises(PulledPlug):
        train(tmp_path / "cut", training, Plug(*at))
    assert (tmp_path / "cut" / FILE).is_file() == (at[0] > 0)
    resumed_figures, resumed = train(tmp_path / "cut", training)
    assert resumed_figures == figures  # to the last bit
    assert len(figures["loss"]) == training.epochs
    for one, other in zip(weights, resumed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)  # a process' first training rounds otherwise than its next
    with_nothing_to_do, same = train(tmp_path / "cut", training, Plug(0, 0))  # killed before it was kept elsewhere
    assert with_nothing_to_do == figures
    for one, other in zip(resumed, same, strict=True):
        np.testing.assert_array_equal(one, other)
    forget(tmp_path / "cut")
    assert not (tmp_path / "cut" / FILE).exists()


def test_a_warm_start_that_was_cut_off_goes_on_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mim")
    training = TrainingConfig(epochs=3, **ALIKE)
    figures, _ = train_ranker(tmp_path / "whole", training, warm=True)
    with pytest.raises(PulledPlug):
        train_ranker(tmp_path / "cut", training, Plug(2, 1), warm=True)
    resumed_figures, _ = train_ranker(tmp_path / "cut", training, warm=True)
    assert "goes on after epoch 2 of 3" in caplog.text
    assert resumed_figures == figures


def test_an_epoch_without_a_step_is_refused() -> None:
    nothing = Epochs(lambda seed: tf.data.Dataset.range(0), 1, 0)
    with pytest.raises(ValueError, match="there are fewer rows than a batch"):
        fit("ciubm", keras.Sequential(), nothing, TrainingConfig())


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=9, patience=2, **ALIKE)
    figures, weights = train_ranker(tmp_path / "whole", training)
    epochs = len(figures["loss"])
    assert epochs < 9
    with pytest.raises(PulledPlug):
        train_ranker(tmp_path / "cut", training, Plug(epochs - 1, 2))
    resumed_figures, resumed = train_ranker(tmp_path / "cut", training)
    assert resumed_figures == figures
    for one, other in zip(weights, resumed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)  # a process' first training rounds otherwise than its next


def test_the_checkpoint_of_another_training_is_left_aside(tmp_path: Path) -> None:
    longer, shorter = (TrainingConfig(epochs=epochs, **ALIKE) for epochs in (3, 2))
    with pytest.raises(PulledPlug):
        train_ranker(tmp_path, longer, Plug(1, 2))
    figures, _ = train_ranker(tmp_path, shorter)
    alone, _ = train_ranker(tmp_path / "alone", shorter)
    assert figures == alone


def test_epochs_that_train_a_part_neither_stop_a_training_nor_are_kept() -> None:
    figures = iter([0.9, 0.8, 0.7, 0.2, 0.3, 0.1])
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    rows = tf.data.Dataset.from_tensors((np.ones((4, 2), "float32"), np.ones((4, 1), "float32")))
    weights = []

    def measure() -> dict[str, float]:
        weights.append(model.get_weights()[0])
        return {"gauc": next(figures)}

    training = TrainingConfig(epochs=6, patience=1)
    found = fit("ciubm", model, rows, training, measure=measure, monitor="gauc", judged_after=3)
    assert found["val_gauc"] == [0.9, 0.8, 0.7, 0.2, 0.3, 0.1]
    np.testing.assert_array_equal(model.get_weights()[0], weights[4])
