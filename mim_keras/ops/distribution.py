"""What replicas that train together share.  TensorFlow's strategies only; other backends have one replica."""

from __future__ import annotations

from typing import Any

import keras


def all_gather(values: Any) -> Any:
    """The rows of all replicas, [B, ...] → [replicas · B, ...]; the rows themselves on one replica.

    The gradient of every replica's loss reaches the replica that a row came from, so that a loss over gathered rows
    equals the loss of one device on the joined batch.

    Source: SimCLR (2002.05709), global negatives.
    """
    if not (count := num_replicas()):
        return values
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    # Each replica writes its rows into its part of a zero tensor; the sum holds all.  `ReplicaContext.all_gather` moves
    # less, but MultiWorkerMirroredStrategy then reads the device of a symbolic tensor, which has none.
    own_part = tf.one_hot(context.replica_id_in_sync_group, count, dtype=values.dtype)
    parts = tf.reshape(own_part, [count, *[1] * values.shape.rank]) * values[None]
    gathered = tf.reshape(parts, [count * tf.shape(values)[0], *values.shape[1:]])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gathered)


def num_replicas() -> int:
    """Replicas that train together; 0 for a single one, and on backends other than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    if not tf.distribute.in_cross_replica_context() and (n := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
        return int(n)
    return 0


def is_multi_worker(strategy: Any = None) -> bool:
    """Whether several processes train together: under `strategy`, or under the current one."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(strategy or tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)
