"""The embedded server answers with TensorFlow Serving's codes and texts, and rolls versions over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import MimClient, ServerError
from serving.embedded_server.model_store import ModelStore
from serving.embedded_server.server import EmbeddedServer
from serving.tensors import to_array, to_proto


class Adder(tf.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = tf.Variable(amount)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.float32, "y")])
    def add(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": x + y + self.amount, "amount": self.amount}


def export(folder: Path, amount: float) -> None:
    """Writes a version the safe way: beside its place, then renamed."""
    module = Adder(amount)
    part = folder.parent / f"{folder.name}.part"
    tf.saved_model.save(module, str(part), {"serving_default": module.add})
    part.rename(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, EmbeddedServer]]:
    models = tmp_path_factory.mktemp("models")
    (models / "adder").mkdir()
    export(models / "adder/1", 10.0)
    with EmbeddedServer(models, port=0, poll_seconds=0.05) as server:
        yield models, server


@pytest.fixture(scope="module")
def channel(served: tuple[Path, EmbeddedServer]) -> grpc.Channel:
    return grpc.insecure_channel(served[1].address)


def request(**changes: Any) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = changes.get("name", "adder")
    made.model_spec.signature_name = changes.get("signature", "")
    if "version" in changes:
        made.model_spec.version.value = changes["version"]
    if "label" in changes:
        made.model_spec.version_label = changes["label"]
    for alias, values in changes.get("inputs", {"x": [1.0, 2.0], "y": [0.5, 0.5]}).items():
        made.inputs[alias].CopyFrom(to_proto(np.asarray(values, changes.get("dtype", np.float32))))
    made.output_filter.extend(changes.get("outputs", []))
    return made


def predict(channel: grpc.Channel, made: predict_pb2.PredictRequest) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(made, timeout=5)


def test_predict(channel: grpc.Channel) -> None:
    response = predict(channel, request())
    assert to_array(response.outputs["sum"]).tolist() == [11.5, 12.5]
    assert response.outputs["sum"].float_val, "answers carry typed values, as TensorFlow Serving's do"
    assert (response.model_spec.name, response.model_spec.signature_name) == ("adder", "serving_default")
    assert list(predict(channel, request(outputs=["amount"])).outputs) == ["amount"]
    assert to_array(predict(channel, request(inputs={"x": [], "y": []})).outputs["sum"]).shape == (0,)


NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"name": ""}, INVALID, "ModelSpec has no name specified."),
        ({"name": "other"}, NOT_FOUND, "Servable not found for request: Latest(other)"),
        ({"version": 99}, NOT_FOUND, "Servable not found for request: Specific(adder, 99)"),
        ({"label": "canary"}, INVALID, "Unrecognized servable version label: canary"),
        ({"signature": "foo"}, grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "foo" not found.'),
        (
            {"inputs": {"x": [1.0]}},
            INVALID,
            "input size does not match signature: 1!=2 len({x}) != len({x,y}). Sent extra: {}. "
            "Missing but required: {y}.",
        ),
        (
            {"inputs": {"x": [1.0], "z": [1.0]}},
            INVALID,
            "Signature input alias: y(feed name: serving_default_y:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {x,z}, or default input alias set: ",
        ),
        (
            {"outputs": ["zzz"]},
            INVALID,
            "output tensor alias not found in signature: zzz Outputs expected to be in the set {amount,sum}.",
        ),
        ({"outputs": ["sum", "sum"]}, INVALID, "duplicate output tensor alias: sum"),
    ],
)
def test_refusals_are_tensorflow_servings(
    channel: grpc.Channel, changes: dict, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        predict(channel, request(**changes))
    assert (refused.value.code(), refused.value.details()) == (code, text)


def test_no_model_spec(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        predict(channel, predict_pb2.PredictRequest())
    assert (refused.value.code(), refused.value.details()) == (INVALID, "Missing ModelSpec")


def test_what_the_runtime_refuses_is_invalid(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as wrong_type:
        predict(channel, request(dtype=np.float64))
    assert wrong_type.value.code() == INVALID
    assert wrong_type.value.details() == "Expects arg[0] to be float but double is provided"
    with pytest.raises(grpc.RpcError) as wrong_shape:
        predict(channel, request(inputs={"x": [1.0, 2.0], "y": [1.0, 2.0, 3.0]}))
    assert wrong_shape.value.code() == INVALID
    made = request()
    made.inputs["x"].tensor_content = b"1234567"
    with pytest.raises(grpc.RpcError) as broken:
        predict(channel, made)
    assert (broken.value.code(), broken.value.details()) == (INVALID, "tensor parsing error: x")


def test_metadata(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    asked = get_model_metadata_pb2.GetModelMetadataRequest()
    asked.model_spec.name = "adder"
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetModelMetadata(asked, timeout=5)
    assert refused.value.details() == "GetModelMetadataRequest must specify at least one metadata_field"
    asked.metadata_field.append("foo")
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetModelMetadata(asked, timeout=5)
    assert refused.value.details() == "Metadata field foo is not supported"
    asked.metadata_field[:] = ["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(asked, timeout=5).metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["serving_default"].inputs) == {"x", "y"}
    assert "__saved_model_init_op" in signatures.signature_def


def states(channel: grpc.Channel, name: str = "adder", version: int | None = None) -> list[tuple[int, int, int]]:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = name
    if version is not None:
        asked.model_spec.version.value = version
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked, timeout=5)
    return [(entry.version, entry.state, entry.status.error_code) for entry in response.model_version_status]


def test_status_of_the_unknown(channel: grpc.Channel) -> None:
    for name, version, text in (
        ("q", None, "Could not find any versions of model q"),
        ("adder", 9999, "Could not find version 9999 of model adder"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            states(channel, name, version)
        assert (refused.value.code(), refused.value.details()) == (NOT_FOUND, text)


def test_a_new_version_takes_over_without_a_failed_call(tmp_path: Path) -> None:
    (tmp_path / "adder").mkdir()
    export(tmp_path / "adder/1", 1.0)
    with EmbeddedServer(tmp_path, port=0, poll_seconds=0.05) as server:
        channel = grpc.insecure_channel(server.address)
        assert to_array(predict(channel, request()).outputs["amount"]) == 1.0
        export(tmp_path / "adder/2", 2.0)
        seen = set()
        deadline = time.monotonic() + 20
        while 2 not in seen and time.monotonic() < deadline:
            seen.add(predict(channel, request()).model_spec.version.value)
        assert seen == {1, 2}
        deadline = time.monotonic() + 5
        while states(channel) != [(2, 30, 0), (1, 50, 0)] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert states(channel) == [(2, 30, 0), (1, 50, 0)]


def test_a_broken_version_never_evicts_a_good_one_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "adder").mkdir()
    export(tmp_path / "adder/1", 1.0)
    store = ModelStore(tmp_path, max_load_retries=1, load_retry_seconds=0.0)
    store.poll()
    (tmp_path / "adder/2").mkdir()
    (tmp_path / "adder/not-a-number").mkdir()
    store.poll()
    assert store.get("adder").version == 1
    assert store.status("adder")[0][1].state == 20, "still to be tried again"
    store.poll()
    (_, broken), _ = store.status("adder")
    assert (broken.state, broken.code) == (50, 5)
    assert broken.message.startswith("Could not find SavedModel .pb or .pbtxt at supplied export directory path")
    export(tmp_path / "adder/3", 3.0)
    store.poll()
    assert store.get("adder").version == 3
    shutil.rmtree(tmp_path / "adder/3")
    shutil.rmtree(tmp_path / "adder/2")
    store.poll()
    assert store.get("adder").version == 1


def test_a_failing_warm_up_fails_the_load(tmp_path: Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    (tmp_path / "adder").mkdir()
    export(tmp_path / "adder/1", 1.0)
    records = tmp_path / "adder/1/assets.extra/tf_serving_warmup_requests"
    records.parent.mkdir(exist_ok=True)
    bad = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request(signature="no")))
    with tf.io.TFRecordWriter(str(records)) as writer:
        writer.write(bad.SerializeToString())
    store = ModelStore(tmp_path)
    store.poll()
    assert store.names() == []


def test_a_taken_port_is_an_error(served: tuple[Path, EmbeddedServer]) -> None:
    with pytest.raises(OSError, match="cannot be had; is a server running there"):
        EmbeddedServer(served[0], port=served[1].port)


def test_client_errors_name_what_to_do(served: tuple[Path, EmbeddedServer]) -> None:
    with MimClient("127.0.0.1:9", timeout=1) as nowhere, pytest.raises(ServerError, match="start one with `mim serve"):
        nowhere.embed(title="x")
    with MimClient(served[1].address) as client:
        with pytest.raises(ServerError, match=r"NOT_FOUND: Servable not found for request: Latest\(mim_encoder\)"):
            client.embed(title="x")
        with pytest.raises(ValueError, match="rank needs at least one candidate"):
            client.rank("u", [], [])
        with pytest.raises(ValueError, match="received 1 ages for 2 items"):
            client.rank("u", ["a", "b"], ["c"], [5])
        with pytest.raises(ValueError, match="needs a picture or words"):
            client.embed()
        with pytest.raises(ServerError, match="mim_ranker not available"):
            client.wait_until_available("mim_ranker", seconds=0.2)
