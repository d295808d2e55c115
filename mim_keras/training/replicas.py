"""What a loss of our own must do where several replicas add up their gradients."""

from __future__ import annotations

from typing import Any

import keras


def share_of(loss: Any) -> Any:
    """This replica's share of a loss that is a mean over its own batch.

    Keras sums gradients over replicas and scales only its built-in losses down; a `compute_loss` of one's own
    must do the same, or training on n replicas runs at n times the learning rate.
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss / replicas if replicas > 1 else loss


def several_workers(strategy: Any = None) -> bool:
    """Whether several processes train together, by MultiWorkerMirroredStrategy: `strategy`, or that of this scope."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(strategy or tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)
