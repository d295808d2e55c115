"""The distribution strategy of the settings."""

from __future__ import annotations

import functools
import os

import tensorflow as tf

from mim_keras.config import ConfigError, TrainingConfig, require


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """`one_device`: the first GPU, else the CPU.  `mirrored`: all GPUs of this machine, or its logical CPUs.
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
    # TensorFlow's default uses the first GPU by itself.  OneDeviceStrategy would hide the batch size from the models,
    # which choose the cheaper computation by it.
    return tf.distribute.get_strategy()


def global_batch_size(config: TrainingConfig, rows: int) -> int:
    """The batch size of all replicas: that of the settings, or all rows where there are fewer; a multiple of replicas.

    Raises:
        ConfigError: the replicas cannot share the batch evenly, or there are fewer rows than replicas.
    """
    replicas = make_strategy(config).num_replicas_in_sync
    require(
        config.batch_size % replicas == 0,
        f"training.batch_size must be a multiple of the {replicas} replicas that share it",
        config.batch_size,
        f"e.g. {max(1, config.batch_size // replicas) * replicas}",
    )
    batch = min(config.batch_size, rows) // replicas * replicas
    rule = f"a batch needs a row for each of {replicas} replicas"
    require(batch > 0, rule, rows, "Bring more rows, or use one_device.")
    return batch


# One of each a process: models made under one could not be trained under another, and two would number their collective
# operations alike.
@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()
