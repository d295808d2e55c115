"""Several training steps as one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

MOST_BYTES = 64 << 20  # of a group; three of them are in memory


class StepGroup(NamedTuple):
    """The batches of several steps.

    Attributes:
        batches: In the structure of one batch, with the step as an axis before the others.
        many: How many steps there are, int32 []; what is behind them is padding.
    """

    batches: Any
    many: tf.Tensor


def in_groups(dataset: tf.data.Dataset, steps: int) -> tf.data.Dataset:
    """Batches → `StepGroup`s of so many, or of as many as `MOST_BYTES` hold.

    The batches alone where that is one, or where batches may differ in shape: a last one may be shorter, or texts be
    as long as the longest of their batch.
    """
    steps = min(steps, _that_fit(dataset.element_spec))
    if steps <= 1:
        return dataset

    def filled(*parts: Any) -> StepGroup:
        batches = parts if len(parts) > 1 else parts[0]
        many = tf.shape(tf.nest.flatten(batches)[0])[0]
        return StepGroup(tf.nest.map_structure(lambda values: _filled(values, steps), batches), many)

    return dataset.batch(steps).map(filled).prefetch(1)


def steps_of(dataset: tf.data.Dataset) -> int:
    """How many steps an element of the dataset stands for, padding included."""
    spec = dataset.element_spec
    return int(tf.nest.flatten(spec.batches)[0].shape[0]) if isinstance(spec, StepGroup) else 1


def run_group(step: Callable[[Any], Any], group: StepGroup) -> None:
    """Trains by each batch of a group in turn."""

    def one(place: tf.Tensor) -> tuple[tf.Tensor]:
        step(tf.nest.map_structure(lambda values: values[place], group.batches))
        return (place + 1,)

    tf.while_loop(lambda place: place < group.many, one, (tf.constant(0),), parallel_iterations=1)


def _that_fit(spec: Any) -> int:
    """How many batches lie together; 1 where one may differ from another in shape."""
    shapes = [(one.shape, one.dtype.size) for one in tf.nest.flatten(spec)]
    batch = next((shape[0] for shape, _ in shapes if shape.rank and shape[0] is not None), None)
    if batch is None or not all(shape.rank and shape[1:].is_fully_defined() for shape, _ in shapes):
        return 1
    return max(1, MOST_BYTES // sum(batch * shape[1:].num_elements() * size for shape, size in shapes))


def _filled(values: tf.Tensor, steps: int) -> tf.Tensor:
    """Zeros after the values, so that a last, shorter group is no other shape to compile."""
    missing = steps - tf.shape(values)[0]
    padding = [[0, missing], *([0, 0] for _ in values.shape[1:])]
    full = tf.cond(missing > 0, lambda: tf.pad(values, padding), lambda: values)
    return tf.ensure_shape(full, [steps, *values.shape[1:]])
