"""A dataset with its own order in each epoch, the same whenever that epoch is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_EPOCH_SEED_STRIDE = 1_000_003


class EpochDataset:
    """Batches that depend on the epoch and the seed alone.

    A dataset that is reshuffled each time it is iterated would not do: a resumed training does not know how often Keras
    iterated it before.

    Args:
        make: Seed, int64 [] → the batches of an epoch.  All randomness must follow from the seed, which for a shuffle
            means `reshuffle_each_iteration=False`.
        seed: Of the training.
        steps: Batches of an epoch.

    Raises:
        ValueError: TensorFlow's global seed is 0.

    Attributes:
        dataset: Of the epoch that `set_epoch` named last; of the first before that.
        steps: As given.
    """

    def __init__(self, make: Callable[[tf.Tensor], tf.data.Dataset], seed: int, steps: int) -> None:
        with tf.device("/CPU:0"):
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        epoch = tf.data.Dataset.from_tensors(np.int64(0)).map(lambda _: self._epoch.read_value())
        try:
            batches = epoch.flat_map(lambda epoch: make(seed + _EPOCH_SEED_STRIDE * epoch))
        except tf.errors.OperatorNotAllowedInGraphError as error:
            raise ValueError(
                "the order of an epoch needs a global seed other than 0, which TensorFlow compares with its own; "
                "received 0. Call keras.utils.set_random_seed with another number."
            ) from error
        self.dataset = batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(4)
        self.steps = steps

    def set_epoch(self, epoch: int) -> None:
        """From here on the dataset is that of `epoch`, counted from 0."""
        self._epoch.assign(epoch)


def zip_seeds(dataset: tf.data.Dataset, seed: tf.Tensor) -> tf.data.Dataset:
    """Pairs each element with a seed of its own, int64 [2], for stateless random operations."""
    return tf.data.Dataset.zip(dataset, tf.data.Dataset.random(seed=seed).batch(2, drop_remainder=True))


def shuffle_and_batch(dataset: tf.data.Dataset, buffer: int, seed: tf.Tensor, batch_size: int) -> tf.data.Dataset:
    """Whole batches of the dataset's elements, shuffled among `buffer` of them."""
    shuffled = dataset.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
    return shuffled.batch(batch_size, drop_remainder=True)
