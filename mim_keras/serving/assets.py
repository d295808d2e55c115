"""Files beside a SavedModel's graph: metadata, batching parameters; and names and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

EXTRA = "assets.extra"
METADATA = f"{EXTRA}/mim.json"
BATCHING_FILE = "batching_params.pbtxt"

# A batch is what a core computes in a few milliseconds; a longer queue waits more than it gains.
BATCHING = """max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
"""


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Writes what the model is, as JSON."""
    (folder / EXTRA).mkdir(exist_ok=True)
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")


def write_batching(folder: Path) -> None:
    """Writes the parameters that a server reads with `--enable_batching --enable_per_model_batching_parameters`.

    A server batches all signatures of a model or none, and the inputs of a batched signature must have one first
    dimension.  So a model with a signature where they differ, the ranker, is exported without.
    """
    (folder / BATCHING_FILE).write_text(BATCHING)


def weights_digest(variables: Iterable[Any]) -> str:
    """sha256 over dtypes, shapes and values of Keras variables, in order."""
    digest = hashlib.sha256()
    for variable in variables:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(str((values.dtype, values.shape)).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def encoder_version(digest: str) -> str:
    """The short name of an encoder: the first twelve digits of its digest."""
    return digest[:12]


def tensorflow_variables(variables: Iterable[Any]) -> list[tf.Variable]:
    """The TensorFlow variables of Keras variables, for a SavedModel to track without the optimizer's state."""
    return [one.value if isinstance(one.value, tf.Variable) else one._value for one in variables]
