"""Classify, Regress and MultiInference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.embedded_server.server import EmbeddedServer
from tests.serving.adder import INVALID, NOT_FOUND
from tests.serving.examples_model import export_examples

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("examples")
    export_examples(folder / "m/3")
    with EmbeddedServer(folder, port=0) as server, grpc.insecure_channel(server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def example(x: float) -> tf.train.Example:
    return tf.train.Example(features=tf.train.Features(feature={"x": feature(x)}))


def feature(x: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=[x]))


def given(*values: float) -> input_pb2.Input:
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=[example(x) for x in values]))


def spec(signature: str = "", name: str = "m") -> dict[str, Any]:
    return {"name": name, "signature_name": signature}


def test_regress(stub: Any) -> None:
    request = regression_pb2.RegressionRequest(model_spec=spec("regress"), input=given(1.0, 3.0))
    response = stub.Regress(request, timeout=5)
    assert [entry.value for entry in response.result.regressions] == [2.0, 6.0]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (3, "regress")
    shared = input_pb2.ExampleListWithContext(context=example(5.0), examples=[tf.train.Example()])
    request.input.CopyFrom(input_pb2.Input(example_list_with_context=shared))
    assert stub.Regress(request, timeout=5).result.regressions[0].value == 10.0


def test_classify(stub: Any) -> None:
    request = classification_pb2.ClassificationRequest(model_spec=spec("classify"), input=given(1.0, 3.0))
    rows = stub.Classify(request, timeout=5).result.classifications
    assert [[(c.label, c.score) for c in row.classes] for row in rows] == [
        [("low", 0.5), ("high", 1.0)],
        [("low", 0.5), ("high", 3.0)],
    ]


def test_multi_inference(stub: Any) -> None:
    tasks = [
        inference_pb2.InferenceTask(model_spec=spec("regress"), method_name=REGRESS),
        inference_pb2.InferenceTask(model_spec=spec("classify"), method_name=CLASSIFY),
    ]
    response = stub.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=given(2.0)), timeout=5)
    first, second = response.results
    assert first.regression_result.regressions[0].value == 4.0
    assert second.classification_result.classifications[0].classes[1].score == 2.0
    assert second.model_spec.signature_name == "classify"


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("Regress", regression_pb2.RegressionRequest(input=given(1.0)), INVALID, "Missing ModelSpec"),
        ("Regress", regression_pb2.RegressionRequest(model_spec=spec("regress", "no"), input=given(1.0)), NOT_FOUND,
         "Servable not found for request: Latest(no)"),
        ("Regress", regression_pb2.RegressionRequest(model_spec=spec("foo"), input=given(1.0)), INVALID,
         "No signature was found with the name: foo"),
        ("Regress", regression_pb2.RegressionRequest(model_spec=spec("regress")), INVALID, "Input is empty."),
        ("Regress", regression_pb2.RegressionRequest(model_spec=spec("flat"), input=given(1.0)), INVALID,
         "Expected one output Tensor."),
        ("Regress", regression_pb2.RegressionRequest(model_spec=spec("double"), input=given(1.0)), INVALID,
         "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
        ("Classify", classification_pb2.ClassificationRequest(model_spec=spec("foo"), input=given(1.0)), INVALID,
         "No signature was found with the name: foo"),
        ("Classify", classification_pb2.ClassificationRequest(model_spec=spec("flat"), input=given(1.0)), INVALID,
         "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ("MultiInference", inference_pb2.MultiInferenceRequest(
            tasks=[{"model_spec": spec("foo"), "method_name": REGRESS}], input=given(1.0)), INVALID,
         "Requested signature not found in model graph: foo"),
        ("MultiInference", inference_pb2.MultiInferenceRequest(
            tasks=[{"model_spec": spec("regress"), "method_name": REGRESS}] * 2, input=given(1.0)), INVALID,
         "Duplicate evaluation of signature: regress"),
        ("MultiInference", inference_pb2.MultiInferenceRequest(
            tasks=[{"model_spec": spec("regress"), "method_name": REGRESS},
                   {"model_spec": spec("classify", "n"), "method_name": CLASSIFY}], input=given(1.0)), INVALID,
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ("MultiInference", inference_pb2.MultiInferenceRequest(
            tasks=[{"model_spec": spec("regress"), "method_name": "no"}], input=given(1.0)),
         grpc.StatusCode.UNIMPLEMENTED, "Unsupported signature method_name: no"),
        ("MultiInference", inference_pb2.MultiInferenceRequest(input=given(1.0)), INVALID,
         "Inference request must have at least one task."),
    ],
)  # fmt: skip
def test_what_is_refused(stub: Any, method: str, request_: Any, code: grpc.StatusCode, text: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(request_, timeout=5)
    assert (refused.value.code(), refused.value.details()) == (code, text)
