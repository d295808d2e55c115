"""What a SavedModel carries beside its graph: facts, warm-up requests, batching parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

EXTRA = "assets.extra"
FACTS = f"{EXTRA}/mim.json"
WARM_UP = f"{EXTRA}/tf_serving_warmup_requests"
BATCHING_FILE = "batching_params.pbtxt"

# One batch is what a core does in a few milliseconds; more waits than it gains.
BATCHING = """max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
"""


class Request(NamedTuple):
    """A call of a signature; of these outputs alone, where any are named."""

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ()


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """What the model is, for those who read folders."""
    (folder / EXTRA).mkdir(exist_ok=True)
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def write_batching(folder: Path) -> None:
    """Parameters that a server reads with `--enable_batching --enable_per_model_batching_parameters`.

    A server batches all signatures of a model or none, and a batched signature must have inputs of one first
    dimension: a model with a signature that has not, the ranker, must be exported without.
    """
    (folder / BATCHING_FILE).write_text(BATCHING)


def write_warm_up(folder: Path, requests: Iterable[Request]) -> None:
    """Requests that a server sends to the model before the first real one.

    The first call of a signature, and of a new choice of its outputs, compiles for some 200 ms while all later ones
    wait; that of a new size of batch plans memory.  None of these should be a user's.
    """
    (folder / EXTRA).mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as writer:
        for made in requests:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="warm-up", signature_name=made.signature),
                inputs={name: tf.make_tensor_proto(value) for name, value in made.inputs.items()},
                output_filter=made.outputs,
            )
            record = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(record.SerializeToString())


def texts(values: Iterable[str | bytes]) -> np.ndarray:
    """An object array of bytes."""
    listed = [value if isinstance(value, bytes) else value.encode() for value in values]
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def of_size(rows: np.ndarray, size: int) -> np.ndarray:
    """The first `size` rows, begun again where there are fewer."""
    return rows[np.arange(size) % len(rows)]
