"""Rows in memory as shuffled batches, and randomness that a resumed training draws again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf


def with_seeds(dataset: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """Pairs each element with a seed of its own, int64 [2], for stateless random operations: others in each epoch, and
    the same ones whenever the same epoch is trained."""
    return tf.data.Dataset.zip(
        dataset, tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
    )


def hide_some_ids(inputs: dict[str, tf.Tensor], rate: float, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Adds `hide_id`, true for a random share `rate` of the targets, to `CiUBM`'s input.

    Drawn outside the model because XLA, on a CPU, draws the number again for every position that uses it,
    which made a training step three times slower.
    """
    draw = tf.random.stateless_uniform(tf.shape(inputs["item_row"]), seed)
    return {**inputs, "hide_id": draw < rate}


def ranking_batches(
    inputs: Mapping[str, np.ndarray], label: np.ndarray, batch_size: int, seed: int, id_dropout: float = 0.0
) -> tf.data.Dataset:
    """Whole shuffled batches of (`CiUBM`'s input, labels), in another order each epoch.

    Args:
        inputs: Columns, [n, ...] each.
        label: float32 [n].
        batch_size: At most n.
        seed: Of the order, and of which ids are hidden.
        id_dropout: Chance that a target's id is hidden.
    """
    columns = {name: tf.constant(values) for name, values in inputs.items()}
    labels = tf.constant(label, tf.float32)

    def of(rows: tf.Tensor, draw: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        batch = {name: tf.gather(values, rows) for name, values in columns.items()}
        return hide_some_ids(batch, id_dropout, draw) if id_dropout else batch, tf.gather(labels, rows)

    rows = tf.data.Dataset.range(len(label)).shuffle(len(label), seed=seed).batch(batch_size, drop_remainder=True)
    return with_seeds(rows, seed).map(of, tf.data.AUTOTUNE).prefetch(4)
