"""Warm-up requests of a SavedModel.  The one module that imports tensorflow_serving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from mim_keras.serving.assets import EXTRA

WARMUP_FILE = f"{EXTRA}/tf_serving_warmup_requests"


class WarmupRequest(NamedTuple):
    """A call of a signature; of some outputs only, where any are named."""

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ()


def write_warmup(folder: Path, requests: Iterable[WarmupRequest]) -> None:
    """Writes the requests that a server sends to the model before the first real one.

    The first call of a signature, and of a new choice of its outputs, compiles for some 200 ms while later ones wait;
    the first of a new batch size plans memory.
    """
    (folder / EXTRA).mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for warmup in requests:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="warm-up", signature_name=warmup.signature),
                inputs={name: tf.make_tensor_proto(value) for name, value in warmup.inputs.items()},
                output_filter=warmup.outputs,
            )
            record = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(record.SerializeToString())


def as_bytes(values: Iterable[str | bytes]) -> np.ndarray:
    """Strings as an object array of bytes."""
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    array = np.empty(len(encoded), object)
    array[:] = encoded
    return array


def repeat_to(rows: np.ndarray, size: int) -> np.ndarray:
    """The first `size` rows, repeated where there are fewer."""
    return rows[np.arange(size) % len(rows)]
