"""Gradients of embedding tables that hold the rows of a batch alone: TensorFlow's `IndexedSlices`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def split_rows(gradient: Any) -> tuple[Any, Any]:
    """Rows int [N] and values [N, dim] of a gradient; None and the gradient [rows, dim] where it is dense."""
    return (gradient.indices, gradient.values) if is_row_gradient(gradient) else (None, gradient)


def is_row_gradient(gradient: Any) -> bool:
    """Whether a gradient holds single rows; on backends other than TensorFlow none does."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def with_values(gradient: Any, values: Any) -> Any:
    """The same rows with other values; the values where the gradient is dense."""
    if not is_row_gradient(gradient):
        return values
    import tensorflow as tf

    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def gather_rows(variable: Any, rows: Any) -> Any:
    """Rows of a variable, [N, dim]; all where `rows` is None."""
    if rows is None:
        return ops.convert_to_tensor(variable)
    import tensorflow as tf

    # Of the variable itself: TensorFlow copies a whole variable that was read before it is written.
    return tf.gather(_native(variable), rows)


def sum_rows(gradient: Any) -> Any:
    """A row gradient with each row once."""
    import tensorflow as tf

    rows, places = tf.unique(gradient.indices)
    sums = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(sums, rows, gradient.dense_shape)


def sum_rows_in_place(gradient: Any, last_place: Any) -> Any:
    """A row gradient in which one occurrence of each row has the sum, and the others have zeros.

    Unlike `sum_rows` it has static shapes, so that XLA neither sorts nor pads.

    Args:
        gradient: A row gradient.
        last_place: Variable, int32 [rows of the table].  Only what is written here is read, so that it is never
            cleared.
    """
    import tensorflow as tf

    rows, values = split_rows(gradient)
    places = tf.range(tf.size(rows))
    _native(last_place).scatter_update(tf.IndexedSlices(places, rows))
    kept = tf.gather(_native(last_place), rows)  # the same for all occurrences of a row
    return with_values(gradient, tf.math.unsorted_segment_sum(values, kept, values.shape[0] or tf.size(rows)))


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
