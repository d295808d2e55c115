"""A ranker's clicks foretold, while it is trained and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.ranker_ensemble import Ranker


class Scorer:
    """Click probabilities by `model` as it is at the time; compiled once for all epochs.

    Args:
        model: A ranker.

    Call takes batches of `CiUBM`'s input and returns float32 [rows of all batches].
    """

    def __init__(self, model: Ranker) -> None:
        self._call = tf.function(lambda inputs: model(inputs, training=False)["ctr"], reduce_retracing=True)

    def __call__(self, batches: Iterable[Mapping[str, Any]]) -> np.ndarray:
        return np.concatenate([self._call(inputs).numpy() for inputs in batches])
