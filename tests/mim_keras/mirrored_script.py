"""Trains a ranker on two logical CPU devices and on one, and compares; a process of its own, because logical
devices must be set before TensorFlow starts."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import TrainingConfig, preset
from mim_keras.item_table import ItemColumns
from mim_keras.training.fit import fit
from mim_keras.training.strategy import make_strategy

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def train(strategy_name: str) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    vectors = rng.integers(-20, 20, (10, 8)).astype(np.int8)
    columns = ItemColumns.assemble(vectors, np.ones(10, bool), [[]] * 10, np.arange(1, 11))
    with make_strategy(TrainingConfig(strategy=strategy_name)).scope():
        model = CiUBM(preset("tiny").ciubm, RankerShape(users=3), columns)
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    x = {
        "item_row": rng.integers(1, 11, 32),
        "history_rows": rng.integers(0, 11, (32, 8)),
        "history_ages": rng.integers(0, 1000, (32, 8)),
        "user_index": rng.integers(0, 3, 32),
    }
    y = rng.integers(0, 2, 32).astype("float32")
    fit("ranker", model, tf.data.Dataset.from_tensor_slices((x, y)).batch(32), TrainingConfig(epochs=3))
    return [variable.numpy() for variable in model.trainable_variables]


for one, two in zip(train("one_device"), train("mirrored"), strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)
