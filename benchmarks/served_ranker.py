"""A ranker to serve, of a shop's size, with weights as they are before training: how fast it answers is the same."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving import messages
from serving.client_core import to_bytes_array
from serving.tensors import to_proto

ITEMS, USERS, D, HISTORY = 20_000, 5_000, 128, 50
MODEL, VERSION = "mim_ranker", "bench"

# As docs/serving.md recommends for two cores: the server on one, a call's work in its own thread.
CORE = 1
THREADS = ("--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=-1")


def item_ids(count: int = ITEMS) -> list[str]:
    """Of the shop."""
    return [f"i{number:06d}" for number in range(count)]


def export_shop_ranker(folder: Path, seed: int = 0) -> None:
    """Writes a version; vectors 128 wide, histories of 50, the default widths of everything else."""
    import tensorflow as tf

    import components  # noqa: F401  before TensorFlow, as everywhere
    from mim_keras import CiUBM, ItemTable, ItemTableData, VocabularySizes
    from mim_keras.config import CiubmConfig
    from mim_keras.serving.signatures_ranker import RankerSignatureSpec, export_ranker, item_lookup

    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    categories = [[f"c{number % 18}"] for number in range(ITEMS)]
    data = ItemTableData.from_items(
        np.round(vectors * 127).astype(np.int8), np.ones(ITEMS, bool), categories, np.arange(1, ITEMS + 1)
    )
    model = CiUBM(CiubmConfig(history_length=HISTORY), VocabularySizes(USERS), ItemTable.from_data(data))
    users = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer([f"u{n}" for n in range(1, USERS)], tf.range(1, USERS, dtype=tf.int64)), 0
    )
    ids = np.array(item_ids())
    spec = RankerSignatureSpec(
        item_ids=ids,
        item_lookup=item_lookup(ids, folder.parent / "item_ids.txt"),
        transform=lambda raw: {"user_index": users.lookup(raw["user_id"])},
        transform_owner=users,
        feature_spec={
            "user_id": tf.io.FixedLenFeature([1], tf.string),
            "item_id": tf.io.FixedLenFeature([1], tf.string),
            "history_item_ids": tf.io.VarLenFeature(tf.string),
            "history_ages": tf.io.VarLenFeature(tf.int64),
        },
        context_features=(),
        encoder_version=VERSION,
        examples=examples(8),
    )
    export_ranker(model, spec, folder)


def rank_arrays(candidates: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of `rank`: one user, a full history."""
    rng = np.random.default_rng(seed)
    ids = item_ids()
    return {
        "user_id": to_bytes_array([f"u{rng.integers(1, USERS)}"]),
        "history_item_ids": to_bytes_array([ids[row] for row in rng.integers(0, ITEMS, HISTORY)]),
        "history_ages": np.sort(rng.integers(1, 10**6, HISTORY))[::-1].copy(),
        "candidate_item_ids": to_bytes_array([ids[row] for row in rng.integers(0, ITEMS, candidates)]),
    }


def examples(count: int, seed: int = 0, one_user: bool = False) -> list[bytes]:
    """Raw tf.Examples, serialised: each candidate with a copy of the history."""
    import tensorflow as tf

    made = []
    arrays = rank_arrays(count, seed)
    for place, item in enumerate(arrays["candidate_item_ids"]):
        own = arrays if one_user else rank_arrays(1, seed + place)
        example = tf.train.Example()
        feature = example.features.feature
        feature["user_id"].bytes_list.value.extend(own["user_id"].tolist())
        feature["item_id"].bytes_list.value.append(item)
        feature["history_item_ids"].bytes_list.value.extend(own["history_item_ids"].tolist())
        feature["history_ages"].int64_list.value.extend(own["history_ages"].tolist())
        made.append(example.SerializeToString())
    return made


def request(signature: str, arrays: dict[str, np.ndarray], outputs: tuple[str, ...] = ("ctr",)) -> bytes:
    """A serialised PredictRequest."""
    made = messages.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = MODEL, signature
    for name, values in arrays.items():
        to_proto(values, made.inputs[name])
    made.output_filter.extend(outputs)
    return bytes(made.SerializeToString())


def ctr_calls(folder: Path) -> dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]]:
    """Signature → what calls it here, inputs to `ctr`, as the embedded server would."""
    from serving.embedded_server.loaded_model import LoadedModel
    from serving.embedded_server.monitoring import Monitoring
    from serving.embedded_server.options import ServerOptions

    options = ServerOptions(models=folder, tensorflow_intra_op_parallelism=1, tensorflow_inter_op_parallelism=-1)
    model = LoadedModel(MODEL, 1, folder, options, Monitoring())

    def call(signature: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
        inputs = [arrays[alias] for alias in signature.aliases]
        answer: np.ndarray = model.runner.run(signature.feeds, inputs, (signature.outputs["ctr"].name,), 60.0)[0]
        return answer

    return {
        name: functools.partial(call, signature)
        for name, signature in model.signatures.items()
        if "ctr" in signature.outputs
    }


def on_core(core: int | None) -> list[str]:
    """Words before a command that keep it on one core."""
    return [] if core is None else ["taskset", "-c", str(core)]


@contextlib.contextmanager
def served(*flags: str, core: int | None = None) -> Iterator[tuple[str, int]]:
    """(address, process id) of `mim serve` with these flags, in a process of its own, on one core where named."""
    command = [*on_core(core), sys.executable, "-m", "tfx_pipeline.cli", "serve", "--port", "0", *flags]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        deadline, address = time.monotonic() + 120, None
        for line in process.stderr:
            if found := re.search(r"^serving .*? on ([\d.]+:\d+)", line):
                address = found.group(1)
                break
            if time.monotonic() > deadline:
                break
        if address is None:
            raise RuntimeError("the server did not start")
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield address, process.pid
        drain.kill()
    finally:
        process.terminate()
        process.wait(20)
