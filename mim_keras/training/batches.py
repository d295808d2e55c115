"""Shuffled batches whose order and draws are those of the epoch, whenever and however often it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mim_keras.item_table import ItemColumns

_APART = 1_000_003  # between the seeds of two epochs
_ORDER = 1  # the second half of the seed of an order of rows


class Epochs:
    """A dataset that is another one in each epoch, and the same one whenever that epoch is trained.

    A dataset that shuffles anew each time it is begun would not do: a training that goes on from a checkpoint does
    not know how often Keras had begun it before.

    Args:
        make: Seed, int64 [] → the batches of an epoch; whatever is random in it follows from the seed alone, which
            for a shuffle also means `reshuffle_each_iteration=False`.
        seed: Of the training.
        steps: Batches of an epoch.

    Raises:
        ValueError: TensorFlow's global seed is 0.

    Attributes:
        dataset: Of the epoch that `begin` named last; of the first one before that.
        steps: As given.
    """

    def __init__(self, make: Callable[[tf.Tensor], tf.data.Dataset], seed: int, steps: int) -> None:
        with tf.device("/CPU:0"):
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        now = tf.data.Dataset.from_tensors(np.int64(0)).map(lambda _: self._epoch.read_value())
        try:
            batches = now.flat_map(lambda epoch: make(seed + _APART * epoch))
        except tf.errors.OperatorNotAllowedInGraphError as error:
            raise ValueError(
                "the order of an epoch needs a global seed other than 0, which TensorFlow compares with its own; "
                "it was set to 0. Call keras.utils.set_random_seed with another number."
            ) from error
        self.dataset = batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(4)
        self.steps = steps

    def begin(self, epoch: int) -> None:
        """From here on the dataset is that of `epoch`, counted from 0."""
        self._epoch.assign(epoch)


def with_seeds(dataset: tf.data.Dataset, seed: tf.Tensor) -> tf.data.Dataset:
    """Pairs each element with a seed of its own, int64 [2], for stateless random operations."""
    return tf.data.Dataset.zip(dataset, tf.data.Dataset.random(seed=seed).batch(2, drop_remainder=True))


def shuffled(dataset: tf.data.Dataset, rows: int, seed: tf.Tensor, batch_size: int) -> tf.data.Dataset:
    """Whole batches of the dataset's elements, shuffled among `rows` of them."""
    shuffle = dataset.shuffle(rows, seed=seed, reshuffle_each_iteration=False)
    return shuffle.batch(batch_size, drop_remainder=True)


def hide_some_ids(inputs: dict[str, tf.Tensor], rate: float, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """Adds `hide_id`, true for a random share `rate` of the targets, to `CiUBM`'s input.

    Drawn outside the model because XLA, on a CPU, draws the number again for every position that uses it,
    which made a training step three times slower.
    """
    draw = tf.random.stateless_uniform(tf.shape(inputs["item_row"]), seed)
    return {**inputs, "hide_id": draw < rate}


def likenesses(
    items: ItemColumns, item_row: np.ndarray | tf.Tensor, history_rows: np.ndarray | tf.Tensor, rows: int = 4096
) -> np.ndarray:
    """Cosines of each target and its clicks, float16 [n, L]: vectors that are frozen are compared once, not each epoch.

    Args:
        items: With the vectors.
        item_row: int [n].
        history_rows: int [n, L].
        rows: So many are compared at a time.
    """
    vectors = tf.constant(items.vectors.astype(np.float32) * items.scale)

    @tf.function(jit_compile=True, reduce_retracing=True)
    def compare(target: tf.Tensor, clicks: tf.Tensor) -> tf.Tensor:
        found = tf.matmul(tf.gather(vectors, clicks), tf.gather(vectors, target)[:, :, None])
        return tf.cast(found[..., 0], tf.float16)

    parts = [slice(begin, begin + rows) for begin in range(0, len(item_row), rows)]
    return np.concatenate([compare(item_row[part], history_rows[part]).numpy() for part in parts])


def ranking_batches(
    inputs: Mapping[str, np.ndarray | tf.Tensor],
    label: np.ndarray | tf.Tensor,
    batch_size: int,
    seed: int,
    id_dropout: float = 0.0,
    compared: ItemColumns | None = None,
) -> Epochs:
    """Whole shuffled batches of (`CiUBM`'s input, labels), in another order each epoch.

    Args:
        inputs: Columns, [n, ...] each.
        label: float32 [n].
        batch_size: At most n.
        seed: Of the order, and of which ids are hidden.
        id_dropout: Chance that a target's id is hidden.
        compared: The items whose frozen vectors targets and clicks are compared by, once for all epochs (`likeness`).
    """
    if compared is not None:
        inputs = {**inputs, "likeness": likenesses(compared, inputs["item_row"], inputs["history_rows"])}
    steps = len(label) // batch_size
    with tf.device("/CPU:0"):
        columns = {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        labels = tf.cast(label, tf.float32)

    def of(rows: tf.Tensor, draw: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        batch = {name: tf.gather(values, rows) for name, values in columns.items()}
        return hide_some_ids(batch, id_dropout, draw) if id_dropout else batch, tf.gather(labels, rows)

    def make(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(label)), [epoch, _ORDER])
        rows = tf.data.Dataset.from_tensor_slices(tf.reshape(order[: steps * batch_size], [steps, batch_size]))
        return with_seeds(rows, epoch).map(of, tf.data.AUTOTUNE)

    return Epochs(make, seed, steps)
