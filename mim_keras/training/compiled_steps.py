"""Several training steps as one compiled loop.

Between two compiled steps TensorFlow collects and assigns every variable anew.  Without that a small ranker took a
tenth less time for a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

MAX_GROUP_BYTES = 64 << 20  # of batches that are grouped; three groups are in memory


class BatchGroup(NamedTuple):
    """The batches of several steps: the structure of one batch, stacked; and how many of them are not padding."""

    batches: Any
    num_steps: tf.Tensor


def group_batches(dataset: tf.data.Dataset, model: keras.Model) -> tf.data.Dataset:
    """Groups batches for a model compiled with XLA and several steps an execution, and makes it loop over them.

    Batches stay as they are, and Keras runs step by step, under a strategy (TensorFlow allows no loop of ours there),
    where their shapes may differ, or where a group would pass `MAX_GROUP_BYTES`.
    """
    steps = min(model.steps_per_execution, _max_group_size(dataset.element_spec))
    has_strategy = tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy()
    if steps <= 1 or not model.jit_compile or model.run_eagerly or has_strategy:
        return dataset
    model.steps_per_execution //= steps
    model.make_train_function = lambda force=False: _make_train_function(model, force)

    def stack(*parts: Any) -> BatchGroup:
        batches = parts if len(parts) > 1 else parts[0]
        num_steps = tf.shape(tf.nest.flatten(batches)[0])[0]
        return BatchGroup(tf.nest.map_structure(lambda values: _pad_to(values, steps), batches), num_steps)

    return dataset.batch(steps).map(stack).prefetch(1)


def steps_per_element(dataset: tf.data.Dataset) -> int:
    """Steps of one element of the dataset, padding included."""
    spec = dataset.element_spec
    return int(tf.nest.flatten(spec.batches)[0].shape[0]) if isinstance(spec, BatchGroup) else 1


def _make_train_function(model: keras.Model, force: bool) -> None:
    """Keras' train function, with a loop over the steps of a group."""
    if model.train_function is None or force:
        model.train_function = model._make_function(_loop_over(model, model.train_step))


def _loop_over(model: keras.Model, train_step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def train_group(group: BatchGroup) -> Any:
        def body(index: tf.Tensor) -> tuple[tf.Tensor]:
            train_step(tf.nest.map_structure(lambda values: values[index], group.batches))
            return (index + 1,)

        tf.while_loop(lambda index: index < group.num_steps, body, (tf.constant(0),), parallel_iterations=1)
        return model.get_metrics_result()

    return train_group


def _max_group_size(spec: Any) -> int:
    """How many batches fit in a group; 1 where one may differ from another in shape."""
    shapes = [(one.shape, one.dtype.size) for one in tf.nest.flatten(spec)]
    batch = next((shape[0] for shape, _ in shapes if shape.rank and shape[0] is not None), None)
    if batch is None or not all(shape.rank and shape[1:].is_fully_defined() for shape, _ in shapes):
        return 1
    return max(1, MAX_GROUP_BYTES // sum(batch * shape[1:].num_elements() * size for shape, size in shapes))


def _pad_to(values: tf.Tensor, steps: int) -> tf.Tensor:
    """Zeros after the values, so that a shorter last group has the same shape."""
    missing = steps - tf.shape(values)[0]
    padding = [[0, missing], *([0, 0] for _ in values.shape[1:])]
    full = tf.cond(missing > 0, lambda: tf.pad(values, padding), lambda: values)
    return tf.ensure_shape(full, [steps, *values.shape[1:]])
