"""Space negatives: what the other replicas hold at this very step."""

from __future__ import annotations

from typing import Any

import keras


def gather_from_replicas(values: Any) -> Any:
    """Rows of all replicas in one tensor, [B, ...] → [replicas · B, ...]; the rows themselves where there is one.

    The gradient of every replica's loss reaches the replica that the row came from, so that a loss over gathered rows
    is that of one device on the joined batch.

    Source: SimCLR (2002.05709), global negatives.
    """
    if not (count := replicas()):
        return values
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    # Each puts its rows into its own part of nothing, and the sum is everyone's.  TensorFlow's all_gather would move
    # less, but under MultiWorkerMirroredStrategy it asks a tensor for its device, which a graph does not tell.
    own = tf.one_hot(context.replica_id_in_sync_group, count, dtype=values.dtype)
    parts = tf.reshape(own, [count, *[1] * values.shape.rank]) * values[None]
    joined = tf.reshape(parts, [count * tf.shape(values)[0], *values.shape[1:]])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, joined)


def replicas() -> int:
    """How many replicas train together; 0 where it is one alone, or the backend is not TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    if not tf.distribute.in_cross_replica_context() and (n := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
        return int(n)
    return 0
