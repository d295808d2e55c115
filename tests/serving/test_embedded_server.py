"""The embedded server answers with TensorFlow Serving's codes and texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from serving.client import MimClient, ServerError, SignatureError
from serving.embedded_server.server import EmbeddedServer
from serving.tensors import to_array
from tests.serving.adder import INVALID, NOT_FOUND, export, predict, request, states


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, EmbeddedServer]]:
    models = tmp_path_factory.mktemp("models")
    export(models / "adder/1", 10.0)
    with EmbeddedServer(models, port=0, poll_seconds=0.05) as server:
        yield models, server


@pytest.fixture(scope="module")
def channel(served: tuple[Path, EmbeddedServer]) -> grpc.Channel:
    return grpc.insecure_channel(served[1].address)


def test_predict(channel: grpc.Channel) -> None:
    response = predict(channel, request())
    assert to_array(response.outputs["sum"]).tolist() == [11.5, 12.5]
    assert response.outputs["sum"].float_val, "answers carry typed values, as TensorFlow Serving's do"
    assert (response.model_spec.name, response.model_spec.signature_name) == ("adder", "serving_default")
    assert list(predict(channel, request(outputs=["amount"])).outputs) == ["amount"]
    assert to_array(predict(channel, request(inputs={"x": [], "y": []})).outputs["sum"]).shape == (0,)


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


def test_inputs_that_a_signature_has_defaults_of(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    file = tmp_path / "adder/1/saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    definition = saved.meta_graphs[0].signature_def["serving_default"]
    definition.defaults["y"].CopyFrom(tf.make_tensor_proto([0.25, 0.25]))
    file.write_bytes(saved.SerializeToString())
    with EmbeddedServer(tmp_path, port=0) as server, grpc.insecure_channel(server.address) as channel:
        left_out = predict(channel, request(inputs={"x": [1.0, 2.0]}))
        assert to_array(left_out.outputs["sum"]).tolist() == [2.25, 3.25]
        assert to_array(predict(channel, request()).outputs["sum"]).tolist() == [2.5, 3.5], "what is sent counts"
        for inputs, text in (
            ({"x": [1.0], "z": [1.0]}, "Inputs contains invalid name. Used request inputs: x, request input: x,z"),
            (
                {"y": [1.0]},
                "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
                "provided. Inputs expected to be in the request {y}, or default input alias set: y",
            ),
            (
                {"x": [1.0], "y": [1.0], "z": [1.0]},
                "input size does not match signature: 3!=2 len({x,y,z}) != len({x,y}). Sent extra: {z}. Missing but "
                "required: {}.",
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                predict(channel, request(inputs=inputs))
            assert (refused.value.code(), refused.value.details()) == (INVALID, text)
        with MimClient(server.address) as client:
            assert client.predict("adder", "", {"x": np.float32([1, 2])})["sum"].tolist() == [2.25, 3.25]
            with pytest.raises(SignatureError, match="missing: x"):
                client.predict("adder", "", {"y": np.float32([1, 2])})


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
    assert (refused.value.code(), refused.value.details()) == (INVALID, "Metadata field foo is not supported")
    asked.metadata_field[:] = ["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(asked, timeout=5).metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["serving_default"].inputs) == {"x", "y"}
    assert "__saved_model_init_op" in signatures.signature_def


def test_status_of_the_unknown(channel: grpc.Channel) -> None:
    for name, version, text in (
        ("q", None, "Could not find any versions of model q"),
        ("adder", 9999, "Could not find version 9999 of model adder"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            states(channel, name, version)
        assert (refused.value.code(), refused.value.details()) == (NOT_FOUND, text)


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
