"""The distribution strategy that the settings ask for."""

from __future__ import annotations

import functools
import os

import tensorflow as tf

from mim_keras.config import ConfigError, TrainingConfig


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """`one_device`: the first GPU, else the CPU.  `mirrored`: all GPUs of this machine (or its logical CPUs).
    `multi_worker`: the cluster that TF_CONFIG describes.

    Raises:
        ConfigError: `multi_worker` without TF_CONFIG.
    """
    if config.strategy == "mirrored":
        return _mirrored()
    if config.strategy == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ConfigError(
                "strategy multi_worker needs the cluster in TF_CONFIG, which is not set. "
                "Set it on every worker, or use one_device or mirrored."
            )
        return _multi_worker()
    # TensorFlow's own, which uses the first GPU by itself; OneDeviceStrategy would hide from the models how large a
    # batch is, and with it which way of computing is the shorter.
    return tf.distribute.get_strategy()


# One of each in a process: models made under one could not be trained under another, and two would give the same
# numbers to different collective operations.
@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()
