"""TensorFlow Lite models by `--prefer_tflite_model`, converted here by TensorFlow's converter.

Source: tensorflow_serving/servables/tensorflow/tflite_session.cc, TfLiteSession::Create and Run.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flatbuffers
import grpc
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.embedded_server.tflite_session import SIGNATURES
from serving.tensors import to_array
from tests.serving.adder import INVALID, export, predict, request
from tests.serving.test_rest import post


class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.string, "text")])
    def run(self, x: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"double": 2 * x, "first": tf.gather(text, [0])}


@pytest.fixture(scope="module")
def converted() -> bytes:
    module = Model()
    made = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module).convert()
    return bytes(made)


def with_signature_defs(content: bytes, definitions: dict[str, Any]) -> bytes:
    """As TensorFlow's lite/tools/signature/signature_def_util.cc, SetSignatureDefMap, writes them."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, definition in definitions.items():
            builder.Key(name)
            builder.String(definition.SerializeToString().decode())
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(bytes(builder.Finish()), np.uint8)
    entry.name, entry.buffer = SIGNATURES, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    packed = flatbuffers.Builder(len(content) + 4096)
    packed.Finish(model.Pack(packed), b"TFL3")
    return bytes(packed.Output())


def definition(x: str = "serving_default_x:0") -> Any:
    made = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for side, alias, name, dtype in (
        (made.inputs, "features", x, tf.float32),
        (made.inputs, "words", "serving_default_text:0", tf.string),
        (made.outputs, "twice", "PartitionedCall:0", tf.float32),
        (made.outputs, "start", "PartitionedCall:1", tf.string),
    ):
        side[alias].name, side[alias].dtype = name, dtype.as_datatype_enum
    return made


@pytest.fixture(scope="module")
def served(converted: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("lite")
    for name, content in (
        ("plain", converted),
        ("signed", with_signature_defs(converted, {"double": definition()})),
        ("unknown", with_signature_defs(converted, {"double": definition("nothing")})),
        ("broken", b"no model" * 99),
    ):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.tflite").write_bytes(content)
    export(folder / "adder/1", 1.0)
    options = ServerOptions(
        models=folder, port=0, rest_api_port=0, prefer_tflite_model=True, num_tflite_pools=2, max_num_load_retries=0
    )
    with EmbeddedServer(options=options) as server:
        yield server


def asked(name: str, signature: str = "", **inputs: Any) -> Any:
    return request(name=name, signature=signature, inputs=inputs)


def test_a_model_without_signature_defs_is_asked_by_its_tensors(served: EmbeddedServer) -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "plain"
    with grpc.insecure_channel(served.address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(metadata, timeout=5)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        assert list(signatures.signature_def) == ["serving_default"]
        made = signatures.signature_def["serving_default"]
        assert {alias: info.dtype for alias, info in made.inputs.items()} == {
            "serving_default_x": 1,
            "serving_default_text": 7,
        }
        # Its outputs are PartitionedCall:0 and :1, and an alias has no `:`, so TensorFlow Serving has the last.
        assert {alias: info.name for alias, info in made.outputs.items()} == {"PartitionedCall": "PartitionedCall:1"}
        text = np.array([b"\xff", b""], object)
        plain = asked("plain", serving_default_x=np.float32([[1, 2], [3, 4]]), serving_default_text=text)
        assert to_array(predict(channel, plain).outputs["PartitionedCall"]).tolist() == [b"\xff"]


def test_signature_defs_of_the_metadata(served: EmbeddedServer) -> None:
    body = {"signature_name": "double", "inputs": {"features": [[1.5, 2]], "words": ["a"]}}
    assert post(served, body, "signed") == (200, {"outputs": {"twice": [[3.0, 4.0]], "start": ["a"]}})
    assert post(served, {"inputs": 1}, "signed")[0] == 400, "there is no serving_default"


def test_calls_of_several_threads_do_not_meet(served: EmbeddedServer) -> None:
    with grpc.insecure_channel(served.address) as channel, ThreadPoolExecutor(8) as pool:

        def right(number: int) -> bool:
            x = np.full((1 + number % 5, 2), number, np.float32)
            words = np.array([str(number).encode()] * len(x), object)
            outputs = predict(channel, asked("signed", "double", features=x, words=words)).outputs
            return bool((to_array(outputs["twice"]) == 2 * x).all()) and to_array(outputs["start"]).tolist() == [
                str(number).encode()
            ]

        assert all(pool.map(right, range(200)))
        wrong = asked("signed", "double", features=np.int64([[1, 2]]), words=np.array([b"a"], object))
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, wrong)
        assert refused.value.code() == INVALID
        assert right(7), "it goes on"


def test_what_does_not_load_and_what_is_no_lite_model(served: EmbeddedServer) -> None:
    manager = served.core.manager
    assert sorted(manager.available()) == ["adder", "plain", "signed"]
    assert "references an unknown tensor" in manager.states("unknown")[1].message
    assert (
        manager.states("broken")[1].code,
        "Cannot build FlatBufferModel" in manager.states("broken")[1].message,
    ) == (
        3,
        True,
    )
    with grpc.insecure_channel(served.address) as channel:
        assert predict(channel, request()), "a version without model.tflite is a SavedModel"
