"""What the pipeline pushes is what a production server can run, warmed up with what it will be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.messages import BatchingParameters
from tests.conftest import Run

# Registered in TensorFlow's core, but run by Python alone.
NEEDS_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
LINKED_OPERATIONS = """
import json, glob, os, sys, tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.client import pywrap_tf_session
from tensorflow.core.framework import op_def_pb2
core = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
names = {op.name for op in core.op}
import importlib.util
text = os.path.dirname(importlib.util.find_spec('tensorflow_text').origin)
for library in glob.glob(text + '/python/ops/*.so'):
    listed = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetOpList(pywrap_tf_session.TF_LoadLibrary(library)))
    names |= {op.name for op in listed.op}
print(json.dumps(sorted(names)))
"""


def version_folder(run: Run, model: str) -> Path:
    return max((run.root / "models" / model).iterdir())


@pytest.fixture(scope="module")
def linked() -> set[str]:
    """Operations of TensorFlow's core and of TF Text: what the stock server links that we may use."""
    ended = subprocess.run([sys.executable, "-c", LINKED_OPERATIONS], capture_output=True, text=True, check=True)
    names = set(json.loads(ended.stdout.splitlines()[-1]))
    assert {"MatMul", "HashTableV2", "ParseExampleV2"} < names
    return names - NEEDS_PYTHON


@pytest.mark.parametrize("model", ["mim_encoder", "mim_ranker", "mim_retrieval"])
def test_a_stock_server_links_every_operation(tiny_run: Run, linked: set[str], model: str) -> None:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((version_folder(tiny_run, model) / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    own = {function.signature.name for function in graph.graph_def.library.function}
    nodes = [*graph.graph_def.node, *(node for f in graph.graph_def.library.function for node in f.node_def)]
    used = {node.op for node in nodes} - own
    assert used <= linked, used - linked
    assert not {op for op in used if op.startswith(("Xla", "TPU"))}


def requests(run: Run, model: str) -> list[Any]:
    path = version_folder(run, model) / "assets.extra/tf_serving_warmup_requests"
    logs = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    return [log.predict_log.request for log in logs]


def test_warm_up_covers_every_signature_and_size_with_real_rows(tiny_run: Run) -> None:
    ranker = requests(tiny_run, "mim_ranker")
    sizes = Counter((r.model_spec.signature_name, r.inputs["candidate_item_ids"].tensor_shape.dim[0].size)
                    for r in ranker if "candidate_item_ids" in r.inputs)  # fmt: skip
    names = ("rank", "rank_with_attributes", "rank_with_vectors")
    assert sizes == {(name, n): 4 for name in names for n in (1, 10, 100, 500)}
    outputs = Counter(tuple(r.output_filter) for r in ranker if "candidate_item_ids" in r.inputs)
    assert outputs == {(): 24, ("ctr",): 24}, "a choice of outputs compiles at its first request"
    signatures = Counter(r.model_spec.signature_name for r in ranker)
    assert signatures["serve_examples"] == signatures["transform_features"] == 3
    users = {tf.make_ndarray(r.inputs["user_id"])[0] for r in ranker if "user_id" in r.inputs}
    assert b"" in users
    assert any(user.startswith(b"u0") for user in users), "a real user"
    histories = [len(tf.make_ndarray(r.inputs["history_item_ids"])) for r in ranker if "user_id" in r.inputs]
    assert max(histories) > 3
    encoder = requests(tiny_run, "mim_encoder")
    batches = [r.inputs["image"].tensor_shape.dim[0].size for r in encoder if "image" in r.inputs]
    assert batches == [1, 8, 32]
    assert tf.make_ndarray(encoder[0].inputs["image"])[0][:3] in (b"\xff\xd8\xff", b"\x89PN"), "a real picture"
    assert {r.model_spec.signature_name for r in encoder} == {"serving_default", "embed_examples"}
    assert {r.model_spec.signature_name for r in requests(tiny_run, "mim_retrieval")} == {
        "serving_default",
        "similar_items",
    }


def test_a_batching_server_batches_what_can_be_and_ranks_all_the_same(tiny_run: Run) -> None:
    for model in ("mim_encoder", "mim_retrieval"):
        file = version_folder(tiny_run, model) / "batching_params.pbtxt"
        assert text_format.Parse(file.read_text(), BatchingParameters()).max_batch_size.value == 64
    assert not (version_folder(tiny_run, "mim_ranker") / "batching_params.pbtxt").exists()
    options = ServerOptions(
        models=tiny_run.root / "models", port=0, enable_batching=True, enable_per_model_batching_parameters=True
    )
    with EmbeddedServer(options=options) as server:
        assert sorted(server.core.manager.available()) == ["mim_encoder", "mim_ranker", "mim_retrieval"]
        kinds = {name: type(server.core.manager.get(name).runner).__name__ for name in server.core.manager.available()}
        assert kinds == {"mim_encoder": "BatchingRunner", "mim_ranker": "Session", "mim_retrieval": "BatchingRunner"}
    every = ServerOptions(models=tiny_run.root / "models", port=0, enable_batching=True, max_num_load_retries=0)
    with EmbeddedServer(options=every) as server:
        told = server.core.manager.states("mim_ranker")
        assert "must have equal 0th-dimension size" in next(iter(told.values())).message, "as TF Serving would say"


def test_item_vectors_are_a_variable_and_small_weights_are_not_read(tiny_run: Run) -> None:
    from serving.embedded_server.loaded_model import LoadedModel

    folder = version_folder(tiny_run, "mim_ranker")
    model = LoadedModel("mim_ranker", 1, folder, ServerOptions(models=folder), Monitoring())
    assert "rank" in model.signatures
    shapes = dict(tf.train.list_variables(str(folder / "variables/variables")))
    items = json.loads((folder / "assets.extra/mim.json").read_text())
    assert [items["items"] + 1, items["dimension"]] in [list(shape) for shape in shapes.values()]
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    constants = [
        node
        for function in saved.meta_graphs[0].graph_def.library.function
        for node in function.node_def
        if node.op == "Const"
    ]
    largest = max(int(np.prod([d.size for d in node.attr["value"].tensor.tensor_shape.dim])) for node in constants)
    assert largest <= 1 << 16
