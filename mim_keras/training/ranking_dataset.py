"""Batches for a ranker, from rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.layers import ItemTableData
from mim_keras.models import Ranker
from mim_keras.training.epoch_dataset import EpochDataset, zip_seeds

_SHUFFLE_SEED = 1  # second half of the seed of an epoch's order


def ranking_dataset(
    inputs: Mapping[str, np.ndarray | tf.Tensor],
    label: np.ndarray | tf.Tensor,
    batch_size: int,
    seed: int,
    id_dropout: float = 0.0,
    similarity_items: ItemTableData | None = None,
) -> EpochDataset:
    """Whole shuffled batches of (inputs of a ranker, labels), in another order each epoch.

    Args:
        inputs: Columns, [n, ...] each.
        label: float32 [n], or [n, labels].
        batch_size: At most n.
        seed: Of the order and of the id dropout.
        id_dropout: Probability that a target's id is masked.
        similarity_items: The items whose similarities are computed once for all epochs; None: the ranker computes them.
    """
    if similarity_items is not None:
        similarity = precompute_similarity(similarity_items, inputs["item_row"], inputs["history_rows"])
        inputs = {**inputs, "similarity": similarity}
    steps = len(label) // batch_size
    with tf.device("/CPU:0"):
        columns = {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        labels = tf.cast(label, tf.float32)

    def gather(rows: tf.Tensor, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        batch = {name: tf.gather(values, rows) for name, values in columns.items()}
        return sample_id_dropout(batch, id_dropout, seed) if id_dropout else batch, tf.gather(labels, rows)

    def make(epoch_seed: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(label)), [epoch_seed, _SHUFFLE_SEED])
        rows = tf.data.Dataset.from_tensor_slices(tf.reshape(order[: steps * batch_size], [steps, batch_size]))
        return zip_seeds(rows, epoch_seed).map(gather, tf.data.AUTOTUNE)

    return EpochDataset(make, seed, steps)


def sample_id_dropout(inputs: dict[str, tf.Tensor], rate: float, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Adds `drop_id`, true for a random share `rate` of the targets, to the inputs of a ranker.

    Sampled outside the model: XLA on a CPU samples the number again for every position that uses it, which made a
    training step three times slower.
    """
    uniform = tf.random.stateless_uniform(tf.shape(inputs["item_row"]), seed)
    return {**inputs, "drop_id": uniform < rate}


def precompute_similarity(
    items: ItemTableData, item_row: np.ndarray | tf.Tensor, history_rows: np.ndarray | tf.Tensor, rows: int = 4096
) -> np.ndarray:
    """Cosine similarities of each target and its behaviours, float16 [n, L]: embeddings are frozen.

    Args:
        items: With the embeddings.
        item_row: int [n].
        history_rows: int [n, L].
        rows: Rows of one computation.
    """
    embeddings = tf.constant(items.embeddings.astype(np.float32) * items.scale)

    @tf.function(jit_compile=True, reduce_retracing=True)
    def compare(target: tf.Tensor, history: tf.Tensor) -> tf.Tensor:
        cosine = tf.matmul(tf.gather(embeddings, history), tf.gather(embeddings, target)[:, :, None])
        return tf.cast(cosine[..., 0], tf.float16)

    parts = [slice(begin, begin + rows) for begin in range(0, len(item_row), rows)]
    return np.concatenate([compare(item_row[part], history_rows[part]).numpy() for part in parts])


class Predictor:
    """Probabilities of a ranker as it is at the time; traced once for all epochs.

    Args:
        model: A ranker.
        output: Of the label; by default of the click.

    Call takes batches of its inputs and returns float32 [rows of all batches].
    """

    def __init__(self, model: Ranker, output: str = "ctr") -> None:
        self._predict = tf.function(lambda inputs: model(inputs, training=False)[output][:, 0], reduce_retracing=True)

    def __call__(self, batches: Iterable[Mapping[str, Any]]) -> np.ndarray:
        return np.concatenate([self._predict(inputs).numpy() for inputs in batches])
