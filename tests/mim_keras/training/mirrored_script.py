"""Trains the three stages and an ensemble on two logical CPU devices and on one, and compares.

A process of its own, because logical devices must be set before TensorFlow starts.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import ConfigError, CsftConfig, InfoNCETerm, TrainingConfig, preset
from mim_keras.layers import KnownPositives
from mim_keras.models import Csft, ImageTextAlignment
from mim_keras.optimizers import RowwiseAdam
from mim_keras.training.ranking_dataset import ranking_dataset
from mim_keras.training.run_training import TrainingRun, compile_model, run_training, set_seed_and_precision
from mim_keras.training.strategy import global_batch_size, make_strategy
from tests.mim_keras import tiny

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
BATCH = 32
Trained = tuple[list[np.ndarray], list[float]]


def fit(stage: str, model: keras.Model, examples: Any, rate: float = 1.0, optimizer: Any = None) -> Trained:
    model.compile(optimizer=optimizer or keras.optimizers.SGD(rate), jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices(examples).batch(BATCH)
    loss = run_training(model, rows, TrainingRun(stage, epochs=3))["loss"]
    return [variable.numpy() for variable in model.trainable_variables], loss


def ranker_examples(rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    x = {
        "item_row": rng.integers(1, 11, rows).astype(np.int32),
        "history_rows": rng.integers(0, 11, (rows, tiny.L)).astype(np.int32),
        "history_ages": rng.integers(0, 1000, (rows, tiny.L)).astype(np.int32),
        "user_index": rng.integers(0, 3, rows).astype(np.int32),
    }
    return x, rng.integers(0, 2, rows).astype("float32")


def stage_3(strategy: tf.distribute.Strategy, ensemble_split_dim: int) -> Trained:
    with strategy.scope():
        model = tiny.any_ranker(replace(preset("tiny").ciubm, ensemble_split_dim=ensemble_split_dim))
        return fit("ciubm", model, ranker_examples(BATCH), rate=0.1)


def stage_3_by_rows(strategy: tf.distribute.Strategy, update: str) -> Trained:
    """With a large epsilon, since a quotient of two numbers near zero would magnify rounding errors."""
    with strategy.scope():
        changes = {"id_embedding_update": update, "id_embedding_l2": 0.01}
        model = tiny.any_ranker(replace(preset("tiny").ciubm, **changes))
        optimizer = RowwiseAdam(0.05, epsilon=1e-2, **model.rowwise_options())
        return fit("ciubm", model, ranker_examples(BATCH), optimizer=optimizer)


def stage_1(strategy: tf.distribute.Strategy, loss: str) -> Trained:
    """Some rows lack a modality, more of them in one half."""
    rng = np.random.default_rng(0)
    features = {
        "image_features": rng.normal(size=(BATCH, 32)).astype("float32"),
        "text_features": rng.normal(size=(BATCH, 16)).astype("float32"),
        "image_mask": (np.arange(BATCH) % 3 > 0).astype("float32"),
        "text_mask": (np.arange(BATCH) > 5).astype("float32"),
    }
    categories = rng.integers(0, 2, (BATCH, 4)).astype("float32")
    with strategy.scope():
        encoder, _ = tiny.tiny_encoder()
        encoder.freeze_towers()
        config = replace(preset("tiny").pretrain, loss=loss, temperature=0.2, trainable="head")
        model = ImageTextAlignment(encoder, config, num_categories=4)
        return fit("pretrain", model, (features, categories), rate=1.0)


def stage_2(strategy: tf.distribute.Strategy, momentum: float, known: bool) -> Trained:
    """The queue counts as a weight."""
    rng = np.random.default_rng(0)
    features = tiny.random_features(rng, 41)
    terms = (
        InfoNCETerm(negatives=("cross_replica", "queue", "hard")),
        InfoNCETerm("image", "text", ("cross_replica",), 8, 0.5),
    )
    settings = CsftConfig(
        terms=terms, queue_size=48, momentum=momentum, align_weight=0.3, modality_dropout=0.0, temperature=0.2,
        training=TrainingConfig(batch_size=BATCH),
    )  # fmt: skip
    pairs = {
        "query_rows": rng.integers(0, 41, (BATCH, 3)).astype(np.int32),
        "item_row": rng.integers(1, 41, BATCH).astype(np.int32),
        "hard_negative_rows": rng.integers(0, 41, (BATCH, 2)).astype(np.int32),
        "key": rng.integers(0, 20, BATCH).astype(np.int32),
    }
    with strategy.scope():
        encoder, _ = tiny.tiny_encoder()
        encoder.freeze_towers()
        model = Csft(encoder, settings, num_items=40, query_length=3)
        positives = KnownPositives.from_pairs(pairs["key"], pairs["item_row"]) if known else None
        model.set_data(features, np.log(rng.uniform(0.01, 0.1, 41)).astype("float32"), positives)
        weights, loss = fit("csft", model, pairs, rate=1.0)
    queue = model.queues["joint"]
    return [*weights, queue.embeddings.numpy(), queue.item_rows.numpy()], loss


def resumed(folder: Path, interrupted: bool) -> list[np.ndarray]:
    """A ranker's weights, trained on both devices with settings that only one device heeds; in two goes or one."""
    training = TrainingConfig(
        epochs=3, batch_size=BATCH, strategy="mirrored", jit_compile=True, steps_per_execution=2, deterministic=True
    )
    rows = 3 * BATCH - 1  # the last batch is not whole
    inputs, label = ranker_examples(rows)
    for epochs in (2, 3) if interrupted else (3,):
        set_seed_and_precision(training)
        batches = ranking_dataset(inputs, label, global_batch_size(training, rows), training.seed, id_dropout=0.3)
        with make_strategy(training).scope():
            model = tiny.any_ranker(replace(preset("tiny").ciubm, dropout=0.2))
            compile_model(model, training, 3 * batches.steps)
        assert not model.jit_compile
        run_training(model, batches, TrainingRun("ciubm", epochs, checkpoint=(folder, "one training")))
    return [variable.numpy() for variable in model.trainable_variables]


def same(train: Any, *options: Any) -> None:
    (alone, alone_loss), (together, together_loss) = (
        train(make_strategy(TrainingConfig(strategy=name)), *options) for name in ("one_device", "mirrored")
    )
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5, err_msg=f"{train.__name__}{options}")
    np.testing.assert_allclose(alone_loss, together_loss, rtol=1e-5)


shared = TrainingConfig(batch_size=BATCH, strategy="mirrored")
assert [global_batch_size(shared, rows) for rows in (1000, 31, 2)] == [BATCH, 30, 2]
for training, rows in ((replace(shared, batch_size=33), 1000), (shared, 1)):
    with pytest.raises(ConfigError, match="2 replicas"):
        global_batch_size(training, rows)
for split_dim in (0, 3):
    same(stage_3, split_dim)
for update in ("rowwise_adagrad", "lazy_adam"):
    same(stage_3_by_rows, update)
for kind in ("softmax", "sigmoid"):
    same(stage_1, kind)
for momentum, known in ((0.0, False), (0.0, True), (0.5, True)):
    same(stage_2, momentum, known)

# last, since operations are deterministic from here on
with tempfile.TemporaryDirectory() as root:
    whole, parts = resumed(Path(root) / "whole", False), resumed(Path(root) / "parts", True)
for one, two in zip(whole, parts, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-7)
