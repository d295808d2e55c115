"""Behaviours of TensorFlow Serving that no other file of tests holds to, each with its source there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import inference_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from serving.embedded_server.options import IGNORED, UNSUPPORTED, ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.embedded_server.warm_up import RECORDS
from serving.tensors import to_array
from tests.serving.adder import INVALID, export, predict, request
from tests.serving.examples_model import export_examples
from tests.serving.test_examples import CLASSIFY, REGRESS, given, spec
from tests.serving.test_rest import ask, post, shifted

# tensorflow_serving/model_servers/main.cc
FLAGS = """allow_version_labels_for_unavailable_models batching_parameters_file enable_batching
enable_grpc_healthcheck_service enable_model_warmup enable_per_model_batching_parameters enable_profiler
enable_serialization_as_tensor_content enable_signature_method_name_check file_system_poll_wait_seconds
flush_filesystem_caches grpc_channel_arguments grpc_max_threads grpc_socket_path load_retry_interval_micros
max_num_load_retries mixed_precision model_base_path model_config_file model_config_file_poll_wait_seconds model_name
monitoring_config_file num_load_threads num_request_iterations_for_warmup num_tflite_interpreters_per_pool
num_tflite_pools num_unload_threads per_process_gpu_memory_fraction platform_config_file port prefer_tflite_model
remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support rest_api_num_threads rest_api_port
rest_api_timeout_in_ms saved_model_tags skip_initialize_tpu ssl_config_file tensorflow_inter_op_parallelism
tensorflow_intra_op_parallelism tensorflow_session_config_file tensorflow_session_parallelism
thread_pool_factory_config_file use_alts_credentials version xla_cpu_compilation_enabled xla_gpu_compilation_enabled"""


class Types(tf.Module):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float16, "half"),
            tf.TensorSpec([None], tf.uint16, "short"),
            tf.TensorSpec([None], tf.bfloat16, "brain"),
            tf.TensorSpec([None], tf.complex64, "complex"),
        ]
    )
    def echo(self, half: tf.Tensor, short: tf.Tensor, brain: tf.Tensor, complex: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {"half": half, "short": short, "brain": brain, "complex": complex}
        return {name: tf.identity(value) for name, value in inputs.items()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "n")])
    def half(self, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"half": tf.cast(n, tf.float16)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def any_rank(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"rank": tf.rank(x)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("behaviour")
    export(folder / "adder/7", 10.0)
    export_examples(folder / "m/3")
    types = Types()
    signatures = {"echo": types.echo, "half": types.half, "any_rank": types.any_rank}
    tf.saved_model.save(types, str(folder / "types/1"), signatures)
    with EmbeddedServer(options=ServerOptions(models=folder, port=0, rest_api_port=0)) as server:
        yield server


@pytest.fixture
def channel(served: EmbeddedServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address) as opened:
        yield opened


def test_every_flag_is_taken_or_refused_by_name() -> None:
    known = {field.name for field in dataclasses.fields(ServerOptions)}
    names = FLAGS.split()
    assert len(names) == 48
    assert [name for name in names if name not in known | set(UNSUPPORTED) | set(IGNORED) | {"version"}] == []
    assert not known & (set(UNSUPPORTED) | set(IGNORED))


def test_types_that_travel_over_grpc_and_not_in_json(served: EmbeddedServer, channel: grpc.Channel) -> None:
    """Source: tensorflow_serving/util/json_tensor.cc, AddValueToTensor and AddSingleValueAndAdvance."""
    inputs = {
        "half": np.float16([1.5, -2]),
        "short": np.uint16([65535, 0]),
        "brain": np.array([1.5, -2], tf.bfloat16.as_numpy_dtype),
        "complex": np.complex64([1 + 2j, -3j]),
    }
    outputs = predict(channel, request(name="types", signature="echo", inputs=inputs)).outputs
    for name, array in inputs.items():
        np.testing.assert_array_equal(to_array(outputs[name]), array)
        assert to_array(outputs[name]).dtype == array.dtype
    refused = {"error": "Failed to write JSON value for tensor type: half"}
    assert post(served, {"signature_name": "half", "inputs": [1]}, "types") == (400, refused)
    assert post(served, {"signature_name": "half", "inputs": []}, "types") == (200, {"outputs": []})
    rows = {name: [1] for name in inputs}
    status, told = post(served, {"signature_name": "echo", "inputs": rows}, "types")
    assert status == 501
    assert "Conversion of JSON Value: 1 to type: " in told["error"]


def test_ranks(channel: grpc.Channel) -> None:
    """TensorFlow has at most 254 dimensions, NumPy 64: beyond them the code is that of a tensor that is wrong."""
    asked = request(name="types", signature="any_rank", inputs={"x": np.ones([1] * 64, np.float32)})
    for rank in (65, 254, 255):
        while len(asked.inputs["x"].tensor_shape.dim) < rank:
            asked.inputs["x"].tensor_shape.dim.add(size=1)
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, asked)
        assert (refused.value.code(), refused.value.details()) == (INVALID, "tensor parsing error: x")


def raw(served: EmbeddedServer, body: str) -> bytes:
    connection = HTTPConnection(str(served.rest_address), timeout=20)
    connection.request("POST", "/v1/models/adder:predict", body)
    read = connection.getresponse().read()
    connection.close()
    return read


def echo(served: EmbeddedServer, n: str) -> tuple[int, Any]:
    body = f'{{"signature_name": "echo", "inputs": {{"text": ["a"], "n": [[{n}, 1]], "other": 5}}}}'
    return ask(served, "POST", "/v1/models/adder:predict", body)[:2]


def test_numbers_in_json(served: EmbeddedServer) -> None:
    """Source: json_tensor.cc: kParseNanAndInfFlag; JsonDecodeInt64 takes no number that has a point or an exponent."""
    assert shifted(served, "[Infinity, -Infinity]") == (200, {"outputs": [float("inf"), float("-inf")]})
    assert b"NaN" in raw(served, '{"signature_name": "shift", "inputs": [NaN]}')
    status, told = echo(served, "9007199254740993")
    assert (status, told["outputs"]["n"]) == (200, [[9007199254740993, 1]]), "and a further name is ignored"
    for wrong in ("1.0", "1e3", "9223372036854775808"):
        assert echo(served, wrong)[0] == 400


def test_examples_whose_number_is_beyond_64_bits(served: EmbeddedServer) -> None:
    """RapidJSON reads it as a double, and json_tensor.cc, AddValueToExample, takes that as a float."""
    body = {"signature_name": "regress", "examples": [{"x": 2**64}]}
    assert post(served, body, "m", "regress") == (200, {"results": [float(f"{2.0**65:.9g}")]})


def test_text_in_json(served: EmbeddedServer) -> None:
    """Source: json_tensor.cc: kParseStopWhenDoneFlag; RapidJSON's writer sends a string's bytes as they are."""
    assert shifted(served, "[1]}")[0] == 200, "what follows the document is not read"
    body = '{"signature_name": "echo", "inputs": {"text": [{"b64": "/8Ok"}], "n": [[1, 2]]}}'
    assert b'"text": ["\xff\xc3\xa4"]' in raw(served, body)


def test_labels_make_no_difference_to_status(served: EmbeddedServer) -> None:
    """Source: tensorflow_serving/model_servers/get_model_status_impl.cc looks at the version alone."""
    every = ask(served, "GET", "/v1/models/adder")[1]
    assert ask(served, "GET", "/v1/models/adder/labels/none")[:2] == (200, every)


def test_rest_requests_of_all_methods_are_counted(served: EmbeddedServer) -> None:
    """Source: tensorflow_serving/model_servers/http_server.cc, RestApiRequestDispatcher::ProcessRequest."""

    def counted() -> int:
        lines = served.core.monitoring.page().splitlines()
        return sum(
            int(line.split()[-1])
            for line in lines
            if line.startswith(':tensorflow:serving:request_count{model_name="m"')
        )

    before = counted()
    for path in ("/v1/models/m", "/v1/models/m/metadata", "/v1/models/m/versions/9"):
        ask(served, "GET", path)
    assert counted() == before + 3


def test_examples_are_counted(served: EmbeddedServer, channel: grpc.Channel) -> None:
    """Source: tensorflow_serving/servables/tensorflow/multi_inference.cc; no other call counts them."""
    tasks = [
        inference_pb2.InferenceTask(model_spec=spec("regress"), method_name=REGRESS),
        inference_pb2.InferenceTask(model_spec=spec("classify"), method_name=CLASSIFY),
    ]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=given(2.0, 1.0, 4.0)), timeout=5)
    lines = served.core.monitoring.page().splitlines()
    assert ':tensorflow:serving:request_example_count_total{model="m"} 3' in lines
    assert ':tensorflow:serving:request_example_counts_bucket{model="m",le="4"} 1' in lines
    assert ':tensorflow:serving:request_example_counts_bucket{model="m",le="2"} 0' in lines


def test_warm_up_is_counted(tmp_path: Path) -> None:
    """Source: saved_model_warmup_util.cc, RunSavedModelWarmupUntracked: the status is the whole text, and a request
    that fails leaves neither."""
    record = prediction_log_pb2.PredictionLog()
    record.predict_log.request.CopyFrom(request(signature="shift", inputs={"x": [1.0]}))
    failing = prediction_log_pb2.PredictionLog()
    failing.predict_log.request.CopyFrom(request(signature="none"))
    for name, content, torn in (("good", [record] * 3, False), ("failing", [failing], False), ("torn", [record], True)):
        export(tmp_path / name / "1", 1.0)
        path = tmp_path / name / "1" / RECORDS
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for entry in content:
                writer.write(entry.SerializeToString())
        if torn:
            path.write_bytes(path.read_bytes() + b"x" * 20)
    options = ServerOptions(models=tmp_path, port=0, max_num_load_retries=0, enable_batching=True)
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:
        predict(channel, request(name="good", outputs=["sum"]))  # a choice of outputs that no signature declares
        page = server.core.monitoring.page()
    read = f':tensorflow:serving:model_warmup_records_read{{model_path="{tmp_path}'
    assert f'{read}/good/1",status="OK"}} 3' in page
    assert f'{read}/torn/1",status="DATA_LOSS: ' in page
    assert "failing/1" not in page
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} " in page


def test_a_message_that_grows_is_refused_before_it_has_grown(tmp_path: Path) -> None:
    """A limit of this server; TensorFlow Serving has none."""
    export(tmp_path / "adder/1", 1.0)
    options = ServerOptions(models=tmp_path, port=0, grpc_max_message_bytes=1 << 20)
    with (
        EmbeddedServer(options=options) as server,
        grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel,
    ):
        asked = request(signature="shift", inputs={"x": np.zeros(8 << 20, np.float32)})
        assert asked.inputs["x"].dtype == types_pb2.DT_FLOAT
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, asked)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert time.monotonic() - started < 5
        assert len(to_array(predict(channel, request(signature="shift", inputs={"x": [1.0]})).outputs["shifted"])) == 1
