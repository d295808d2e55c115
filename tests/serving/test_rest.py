"""The REST API: TensorFlow Serving's paths, bodies, codes and texts."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from tests.serving.adder import export
from tests.serving.examples_model import export_examples


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("rest")
    export(folder / "models/adder/7", 10.0)
    export_examples(folder / "models/of examples/1")
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    (folder / "models.config").write_text(
        "model_config_list {"
        f' config {{ name: "adder" base_path: "{folder}/models/adder" model_platform: "tensorflow"'
        ' version_labels { key: "stable" value: 7 } }'
        f' config {{ name: "of examples" base_path: "{folder}/models/of examples" model_platform: "tensorflow" }} }}'
    )
    options = ServerOptions(
        model_config_file=folder / "models.config",
        allow_version_labels_for_unavailable_models=True,
        port=0,
        rest_api_port=0,
        monitoring_config_file=monitoring,
        rest_api_enable_cors_support=True,
    )
    with EmbeddedServer(options=options) as server:
        yield server


def ask(server: EmbeddedServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict]:
    connection = HTTPConnection(str(server.rest_address), timeout=20)
    text = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
    connection.request(method, path, text, headers)
    response = connection.getresponse()
    read = response.read().decode(errors="surrogateescape")  # bytes that are no text come as they are
    connection.close()
    told = json.loads(read) if response.getheader("Content-Type") == "application/json" and read else read
    return response.status, told, dict(response.getheaders())


def post(server: EmbeddedServer, body: Any, place: str = "adder", action: str = "predict") -> tuple[int, Any]:
    return ask(server, "POST", f"/v1/models/{place}:{action}", body)[:2]


def test_predict_by_rows_and_by_columns(rest: EmbeddedServer) -> None:
    rows = {"instances": [{"text": "a", "n": [1, 2]}, {"text": {"b64": "/w=="}, "n": [3, 4]}], "signature_name": "echo"}
    assert post(rest, rows) == (
        200,
        {
            "predictions": [
                {"half": [0.5, 1.0], "n": [1, 2], "text": "a", "text_bytes": {"b64": "YQ=="}},
                {"half": [1.5, 2.0], "n": [3, 4], "text": "\udcff", "text_bytes": {"b64": "/w=="}},
            ]
        },
    )
    assert post(rest, {"instances": [1, 0.2], "signature_name": "shift"}) == (200, {"predictions": [11.0, 10.2]})
    columns = {"inputs": {"x": [1, 2], "y": [0.5, 0.5]}}
    assert post(rest, columns) == (200, {"outputs": {"amount": 10.0, "sum": [11.5, 12.5]}})
    assert post(rest, {"inputs": [0.25], "signature_name": "shift"}) == (200, {"outputs": [10.25]})
    assert post(rest, '{"inputs": [NaN, Infinity], "signature_name": "shift"} more') == (
        200,
        {"outputs": [pytest.approx(float("nan"), nan_ok=True), float("inf")]},
    )
    for place in ("adder/versions/7", "adder/labels/stable", "ADDER".lower()):
        assert post(rest, columns, place)[0] == 200
    assert ask(rest, "POST", "/V1/Models/adder:predict", columns)[0] == 200, "paths know no case"
    assert ask(rest, "POST", "/v1/models/adder:PREDICT", columns)[0] == 400, "methods do"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("", 400, "JSON Parse error: The document is empty"),
        ("[1]", 400, "JSON Value: [\n    1\n] Is not object"),
        ("{", 400, "JSON Parse error: "),
        ({"instances": [1], "inputs": [1]}, 400, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({}, 400, "Missing 'inputs' or 'instances' key"),
        ({"instances": 4}, 400, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, 400, "No values in 'instances' array"),
        ({"instances": [1], "signature_name": 5}, 400, "'signature_name' key must be a string value."),
        ({"instances": [1], "signature_name": "no"}, 400, 'Serving signature name: "no" not found in signature def'),
        ({"instances": [1, 2]}, 400, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [1]}, 400, "inputs is a plain value/list, but expecting an object"),
        ({"inputs": {"x": [1]}}, 400, "Missing named input: y in 'inputs' object."),
        ({"instances": [{"x": 1, "z": 1}]}, 400,
         "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
         "named input: z"),
        ({"instances": [{"x": 1}]}, 400, "keys must be equal to: x,y"),
        ({"instances": [{"x": 1, "y": 1}, 4]}, 400, "Expecting object but got list at item 1 of input list"),
        ({"instances": [1, {"x": 1}], "signature_name": "shift"}, 400,
         "Expecting value/list but got object at item 1 of input list"),
        ({"instances": ["a"], "signature_name": "shift"}, 400,
         'JSON Value: "a" Type: String is not of expected type: float'),
        ({"instances": [True], "signature_name": "shift"}, 400, "Type: True is not of expected type: float"),
        ({"instances": [[1, 2], [1]], "signature_name": "total"}, 400, "Expecting tensor size: 2 but got: 1"),
        ({"inputs": [[1, 2], [1]], "signature_name": "total"}, 400,
         "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"inputs": [[1], 2], "signature_name": "total"}, 400,
         "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"instances": [{"text": "a", "n": [1.5, 2]}], "signature_name": "echo"}, 400,
         "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ({"instances": [{"text": {"b64": "*"}, "n": [1, 2]}], "signature_name": "echo"}, 400,
         "Unable to base64 decode"),
        ({"instances": [{"text": {"c": "*"}, "n": [1, 2]}], "signature_name": "echo"}, 400,
         "not formatted correctly for base64 data"),
        ({"instances": [{"x": 1, "y": 2}]}, 400, "Tensor name: amount has no shape information "),
    ],
)  # fmt: skip
def test_bodies_that_are_refused(rest: EmbeddedServer, body: Any, status: int, text: str) -> None:
    got, told = post(rest, body)
    assert got == status
    assert text in told["error"]


def test_paths_that_are_refused(rest: EmbeddedServer) -> None:
    body = {"inputs": {"x": [1], "y": [1]}}
    assert post(rest, body, "none") == (404, {"error": "Servable not found for request: Latest(none)"})
    assert post(rest, body, "adder/versions/9") == (
        404,
        {"error": "Servable not found for request: Specific(adder, 9)"},
    )
    assert post(rest, body, "adder/labels/x") == (400, {"error": "Unrecognized servable version label: x"})
    huge = f"adder/versions/{10**20}"
    assert post(rest, body, huge) == (400, {"error": f"Failed to convert version: {10**20} to numeric."})
    for method, path in (("POST", "/v1/models/adder"), ("POST", "/v1/models/adder:explode"), ("GET", "/v1/x"),
                         ("DELETE", "/v1/models/adder")):  # fmt: skip
        assert ask(rest, method, path)[:2] == (400, {"error": f"Malformed request: {method} {path}"})
    assert ask(rest, "GET", "/v1/models")[:2] == (400, {"error": "Missing model name in request."})
    assert ask(rest, "GET", "/else")[0] == 404


def test_status_and_metadata(rest: EmbeddedServer) -> None:
    available = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert ask(rest, "GET", "/v1/models/adder")[:2] == (200, {"model_version_status": [available]})
    assert ask(rest, "GET", "/v1/models/adder/versions/7")[1] == {"model_version_status": [available]}
    assert ask(rest, "GET", "/v1/models/none")[:2] == (404, {"error": "Could not find any versions of model none"})
    status, told, _ = ask(rest, "GET", "/v1/models/adder/labels/stable/metadata")
    assert status == 200
    assert told["model_spec"] == {"name": "adder", "signature_name": "", "version": "7"}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"name": "", "size": "-1"}]


def test_classify_and_regress(rest: EmbeddedServer) -> None:
    place = "of%20examples"
    examples = {"examples": [{"x": 1.0}, {"x": [3.0]}], "signature_name": "regress"}
    assert post(rest, examples, place, "regress") == (200, {"results": [2.0, 6.0]})
    shared = {"context": {"x": 4.0}, "examples": [{}], "signature_name": "regress"}
    assert post(rest, shared, place, "regress") == (200, {"results": [8.0]})
    examples["signature_name"] = "classify"
    assert post(rest, examples, place, "classify") == (
        200,
        {"results": [[["low", 0.5], ["high", 1.0]], [["low", 0.5], ["high", 3.0]]]},
    )
    for body, text in (
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [1.0, "a"]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64_t element. Only int64_t is supported."),
        ('{"examples": [{"x": 1e400}]}', "Number too big to be stored in double."),
        ({"examples": [{"x": 1.0}], "signature_name": "no"}, "No signature was found with the name: no"),
    ):
        status, told = post(rest, body, place, "classify")
        assert status == 400
        assert text in told["error"]


def test_metrics_and_cors(rest: EmbeddedServer) -> None:
    post(rest, {"inputs": [1.0], "signature_name": "shift"})
    post(rest, "", "nobody")
    status, page, headers = ask(rest, "GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain"
    lines = page.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert any(one.startswith(':tensorflow:serving:request_count{model_name="(unknown)",status=') for one in lines)
    assert "nobody" not in page, "clients choose names, and could fill the memory with them"
    latency = ':tensorflow:serving:request_latency_bucket{model_name="adder",API="predict",entrypoint="REST",le="+Inf"}'
    assert any(line.startswith(latency) for line in lines)
    assert any('le="18"' in line for line in lines), "limits grow by 1.8 from 10 us"
    _, _, headers = ask(rest, "GET", "/v1/models/adder")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert ask(rest, "OPTIONS", "/v1/models/adder:predict", Origin="https://shop.example")[0] == 200
    assert ask(rest, "OPTIONS", "/v1/models/adder:predict")[0] == 400


def shifted(rest: EmbeddedServer, values: str, **more: Any) -> Any:
    body = f'{{"signature_name": "shift", "inputs": {values}}}'
    return ask(rest, "POST", "/v1/models/adder:predict", body, **more)[:2]


def test_json_as_tensorflow_serving_reads_it(rest: EmbeddedServer) -> None:
    assert shifted(rest, "[Inf, -Inf]") == (200, {"outputs": [float("inf"), float("-inf")]})
    assert shifted(rest, '["Inf"]')[1]["error"].startswith('JSON Value: "Inf" Type: String')
    assert (
        ask(rest, "POST", "/v1/models/adder:predict", b'\xef\xbb\xbf{"signature_name": "shift", "inputs": [1]}')[0]
        == 200
    )
    assert shifted(rest, "[1e400]") == (400, {"error": "JSON Parse error: Number too big to be stored in double."})
    assert shifted(rest, f"[{'1' * 5_000}]")[0] == 400
    assert shifted(rest, f"[{2**70}]") == (200, {"outputs": [1.18059162e21]})
    assert shifted(rest, '[1], "inputs": [5]') == (200, {"outputs": [11.0]}), "the first of two keys counts"
    assert shifted(rest, "[-9.6666667]") == (200, {"outputs": [0.333333015]}), "nine digits, where six say less"
    assert ask(rest, "GET", f"/v1/models/adder/versions/{'1' * 5_000}")[0] == 400
    for depth in (300, 700, 980, 5_000):
        status, told = shifted(rest, "[" * depth + "]" * depth)
        assert status == 400
        assert len(told["error"]) < 1_000
    for b64 in ("YQ", "YQ==", " Y\\nQ = ="):
        rows = f'{{"signature_name": "echo", "inputs": {{"text": [{{"b64": "{b64}"}}], "n": [[1, 2]]}}}}'
        assert ask(rest, "POST", "/v1/models/adder:predict", rows)[1]["outputs"]["text"] == ["a"]


def test_bodies_that_are_packed(rest: EmbeddedServer) -> None:
    body = b'{"signature_name": "shift", "inputs": [1]}'
    packed = gzip.compress(body)
    path, how = "/v1/models/adder:predict", {"Content-Encoding": "gzip"}
    assert ask(rest, "POST", path, packed, **how)[:2] == (200, {"outputs": [11.0]})
    for wrong, text in (
        (body, "cannot be decompressed"),
        (packed[:-9], "it ends too early"),
        (gzip.compress(b" " * (32 << 20)), "more than 16,777,216 bytes when decompressed"),
    ):
        status, told, _ = ask(rest, "POST", path, wrong, **how)
        assert status == 400
        assert text in told["error"]


def test_limits_come_before_cost(rest: EmbeddedServer) -> None:
    assert "arrays and objects; at most 1,000,000" in shifted(rest, "[" + "[]," * 1_000_001 + "0]")[1]["error"]
    with contextlib.suppress(ConnectionError):  # closed before all was sent
        assert ask(rest, "POST", "/v1/models/adder:predict", b" " * (17 << 20))[0] == 413
    status, told, _ = ask(rest, "GET", "/v1/models/adder/METADATA")
    assert (status, list(told)) == (200, ["model_version_status"]), "only `metadata` itself asks for metadata"


def test_text_that_is_never_closed_is_read_once(rest: EmbeddedServer) -> None:
    started = time.monotonic()
    body = b'{"instances": Inf, "' + b'\\"' * 2_000_000
    assert ask(rest, "POST", "/v1/models/adder:predict", body)[0] == 400
    assert time.monotonic() - started < 5


def test_half_of_a_surrogate_pair_is_no_text(rest: EmbeddedServer) -> None:
    for body in ('{"signature_name": "\\ud800", "inputs": [1]}', '{"signature_name": "shift", "inputs": ["\\ud800"]}'):
        assert ask(rest, "POST", "/v1/models/adder:predict", body)[0] == 400
    for body in ('{"examples": [{"x": "\\ud800"}]}', '{"examples": [{"\\ud800": 1.0}]}'):
        assert ask(rest, "POST", "/v1/models/of%20examples:classify", body)[0] == 400


def test_a_timeout_of_zero_is_no_limit(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    options = ServerOptions(models=tmp_path, port=0, rest_api_port=0, rest_api_timeout_in_ms=0, host="localhost")
    with EmbeddedServer(options=options) as server:
        assert shifted(server, "[1]") == (200, {"outputs": [2.0]})


def test_a_call_that_takes_too_long(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    options = ServerOptions(models=tmp_path, port=0, rest_api_port=0, rest_api_timeout_in_ms=50)
    with EmbeddedServer(options=options) as server:
        assert post(server, {"inputs": 20000, "signature_name": "slow"})[0] == 504
