"""Trains stages 1 and 2, a ranker and two of them on two logical CPU devices and on one, and compares.

A process of its own, because logical devices must be set before TensorFlow starts.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.ciubm import RankerShape
from mim_keras.config import ConfigError, ContrastTerm, CsftConfig, TrainingConfig, preset
from mim_keras.contrast.items_of_keys import ABSENT, ItemsOfKeys
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.item_table import ItemColumns
from mim_keras.pretrain import Pretraining
from mim_keras.ranker_ensemble import make_ranker
from mim_keras.training.batches import ranking_batches
from mim_keras.training.fit import fit, make_ready, seeded
from mim_keras.training.strategy import batch_of, make_strategy

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
BATCH = 32


def train(strategy_name: str, ensemble_at: int) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    vectors = rng.integers(-20, 20, (10, 8)).astype(np.int8)
    columns = ItemColumns.assemble(vectors, np.ones(10, bool), [[]] * 10, np.arange(1, 11))
    with make_strategy(TrainingConfig(strategy=strategy_name)).scope():
        model = make_ranker(replace(preset("tiny").ciubm, ensemble_at=ensemble_at), RankerShape(users=3), columns)
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    x = {
        "item_row": rng.integers(1, 11, BATCH),
        "history_rows": rng.integers(0, 11, (BATCH, 8)),
        "history_ages": rng.integers(0, 1000, (BATCH, 8)),
        "user_index": rng.integers(0, 3, BATCH),
    }
    y = rng.integers(0, 2, BATCH).astype("float32")
    fit("ranker", model, tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH), TrainingConfig(epochs=3))
    return [variable.numpy() for variable in model.trainable_variables]


def align(strategy_name: str, loss: str) -> tuple[list[np.ndarray], list[float]]:
    """Weights of stage 1 and the loss of each epoch; some rows lack a modality, more of them in one half."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    config = preset("tiny").encoder
    features = {
        "image_features": rng.normal(size=(BATCH, 32)).astype("float32"),
        "text_features": rng.normal(size=(BATCH, 16)).astype("float32"),
        "image_mask": (np.arange(BATCH) % 3 > 0).astype("float32"),
        "text_mask": (np.arange(BATCH) > 5).astype("float32"),
        "category": rng.integers(0, 2, (BATCH, 4)).astype("float32"),
    }
    with make_strategy(TrainingConfig(strategy=strategy_name)).scope():
        encoder = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
        encoder.build()
        encoder.freeze_towers()
        model = Pretraining(encoder, replace(preset("tiny").pretrain, loss=loss, temperature=0.2), categories=4)
        model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices(features).batch(BATCH)
    history = fit("pretrain", model, rows, TrainingConfig(epochs=3))
    return [variable.numpy() for variable in model.trainable_variables], history["loss"]


def contrast(strategy_name: str, momentum: float, known: bool) -> tuple[list[np.ndarray], list[float]]:
    """Weights, the queue's content, and the loss of each epoch; at a rate of one, weights differ as gradients do."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    config = preset("tiny").encoder
    features = {
        "image_features": rng.normal(size=(40, 32)).astype("float32"),
        "text_features": rng.normal(size=(40, 16)).astype("float32"),
        "image_mask": np.ones(40, "float32"),
        "text_mask": np.ones(40, "float32"),
    }
    terms = (ContrastTerm(pools=("space", "time", "hard")), ContrastTerm("image", "text", ("space",), 8, 0.5))
    settings = CsftConfig(
        terms=terms, queue_size=48, momentum=momentum, align_weight=0.3, modality_dropout=0.0, temperature=0.2
    )
    log_q = np.log(rng.uniform(0.01, 0.1, 40)).astype("float32")
    rows, key = rng.integers(0, 40, (BATCH, 6)).astype(np.int32), rng.integers(0, 20, BATCH).astype(np.int32)
    rows[::3, 0] = ABSENT
    with make_strategy(TrainingConfig(strategy=strategy_name)).scope():
        encoder = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
        encoder.build()
        encoder.freeze_towers()
        positives = ItemsOfKeys.of(key, rows[:, 3]) if known else None
        model = Csft(encoder, settings, log_q, features, query_items=3, positives=positives)
        model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    x = {"rows": rows, "key": key}
    history = fit("csft", model, tf.data.Dataset.from_tensor_slices(x).batch(BATCH), TrainingConfig(epochs=3))
    queue = [model.queues["joint"].vectors.numpy(), model.queues["joint"].rows.numpy()]
    return [variable.numpy() for variable in model.trainable_variables] + queue, history["loss"]


def resumed(folder: Path, cut: bool) -> list[np.ndarray]:
    """A ranker's weights, trained on both devices with settings that only one device heeds; if `cut`, in two goes."""
    training = TrainingConfig(
        epochs=3, batch_size=BATCH, strategy="mirrored", jit_compile=True, steps_per_execution=2, deterministic=True
    )
    rng = np.random.default_rng(0)
    rows = 3 * BATCH - 1  # of which a batch is left out, and no replica is without its half
    inputs = {
        "item_row": rng.integers(1, 11, rows).astype(np.int32),
        "history_rows": rng.integers(0, 11, (rows, 8)).astype(np.int32),
        "history_ages": rng.integers(0, 1000, (rows, 8)).astype(np.int32),
        "user_index": rng.integers(0, 3, rows).astype(np.int32),
    }
    label = rng.integers(0, 2, rows).astype("float32")
    for epochs in (2, 3) if cut else (3,):
        seeded(training)
        batches = ranking_batches(inputs, label, batch_of(training, rows), training.seed, id_dropout=0.3)
        with make_strategy(training).scope():
            vectors = np.random.default_rng(0).integers(-20, 20, (10, 8)).astype(np.int8)
            columns = ItemColumns.assemble(vectors, np.ones(10, bool), [[]] * 10, np.arange(1, 11))
            model = make_ranker(replace(preset("tiny").ciubm, dropout=0.2), RankerShape(users=3), columns)
            make_ready(model, training, 3 * batches.steps)
        assert not model.jit_compile
        fit("ciubm", model, batches, replace(training, epochs=epochs), checkpoints=(folder, "one training"))
    return [variable.numpy() for variable in model.trainable_variables]


shared = TrainingConfig(batch_size=BATCH, strategy="mirrored")
assert [batch_of(shared, rows) for rows in (1000, 31, 2)] == [BATCH, 30, 2]
for training, rows in ((replace(shared, batch_size=33), 1000), (shared, 1)):
    with pytest.raises(ConfigError, match="2 replicas"):
        batch_of(training, rows)

for at in (0, 3):
    for one, two in zip(train("one_device", at), train("mirrored", at), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)

for kind in ("softmax", "sigmoid"):
    alone, alone_loss = align("one_device", kind)
    together, together_loss = align("mirrored", kind)
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(alone_loss, together_loss, rtol=1e-5)

for momentum, known in ((0.0, False), (0.0, True), (0.5, True)):
    alone, alone_loss = contrast("one_device", momentum, known)
    together, together_loss = contrast("mirrored", momentum, known)
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(alone_loss, together_loss, rtol=1e-5)

# last, since sums are in one order from here on
with tempfile.TemporaryDirectory() as place:
    for one, two in zip(resumed(Path(place) / "whole", False), resumed(Path(place) / "cut", True), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7)
