"""TensorFlow Serving's REST API, and Prometheus' page, over a `ServerCore`.

Source: tensorflow_serving/model_servers/{http_server,http_rest_api_handler,http_rest_api_util}.cc.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)
from waitress import wasyncore
from waitress.server import create_server

from serving.embedded_server import inference, json_tensors
from serving.embedded_server.config_files import read_text_proto
from serving.embedded_server.errors import ServingFault, failed_precondition, invalid
from serving.embedded_server.handlers import infer, model_metadata, model_status, record_request
from serving.embedded_server.monitoring import PROMETHEUS_PATH
from serving.embedded_server.server_core import ServerCore
from serving.messages import MonitoringConfig

log = logging.getLogger("mim")

_PLACE = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
# The path knows no case, the method behind it does.
_INFER = re.compile(f"(?i:{_PLACE}):(classify|regress|predict)")
_LOOK = re.compile(r"(?i:/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?)(?:/([A-Za-z]+))?")
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]
_CONNECTIONS = 4096  # those that trickle cost a file each, and must not keep others out
_CHANNEL_SECONDS = 30  # a connection that sends nothing for so long is closed
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class RestServer:
    """Answers HTTP on a port, in threads of its own.

    Args:
        core: What answers.

    Raises:
        OSError: the port is taken.
        ValueError: the monitoring configuration cannot be read.
    """

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._metrics_path = self._read_monitoring()
        options = core.options
        logging.getLogger("waitress").setLevel(logging.ERROR)
        try:
            self._server = create_server(
                self._answer,
                host=options.host,
                port=options.rest_api_port,
                ipv6=":" in options.host,  # localhost is one address, not two
                threads=options.rest_api_num_threads,
                channel_timeout=_CHANNEL_SECONDS,
                connection_limit=_CONNECTIONS,
                asyncore_use_poll=True,  # select() ends at 1,024 files
                cleanup_interval=5,
                max_request_body_size=options.rest_api_max_body_bytes,
                ident=None,
                clear_untrusted_proxy_headers=True,
            )
        except OSError as error:
            raise OSError(
                f"port {options.rest_api_port} on {options.host} cannot be had for REST; choose another --rest_api_port"
            ) from error
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._serve, name="rest", daemon=True)

    def start(self) -> None:
        """Opens the port to calls."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Closes the port to new connections, lets the requests that came finish, and ends.

        Args:
            seconds: How long they have.
        """
        server, deadline = self._server, time.monotonic() + seconds
        if self._thread.is_alive():
            server.trigger.pull_trigger(lambda: wasyncore.dispatcher.close(server))  # in the thread of its loop
            while self._busy() and time.monotonic() < deadline:
                time.sleep(0.02)
            server.task_dispatcher.shutdown(timeout=0.2)
            server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
            self._thread.join(0.3)
        else:
            server.task_dispatcher.shutdown(timeout=0.2)
            server.close()

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)

    def _serve(self) -> None:
        try:
            self._server.run()
        except OSError:  # closed under its select
            log.debug("the REST server is closed")

    def _read_monitoring(self) -> str | None:
        path = self._core.options.monitoring_config_file
        if path is None:
            return None
        prometheus = read_text_proto(path, MonitoringConfig(), "MonitoringConfig").prometheus_config
        return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None

    # -- one request ---------------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        # As it stood in the request: a name's escaped characters must not become separators of the path.
        path = environ.get("REQUEST_URI", environ["PATH_INFO"]).split("?")[0]
        method = environ["REQUEST_METHOD"]
        if path == self._metrics_path:
            return _send(start_response, HTTPStatus.OK, self._core.monitoring.page(), "text/plain")
        if not re.fullmatch(r"/v1/.*", path, re.IGNORECASE):
            return _send(start_response, HTTPStatus.NOT_FOUND, "", "text/plain")
        cors = _CORS if self._core.options.rest_api_enable_cors_support else []
        try:
            if method == "OPTIONS":
                if not re.search("https?://", environ.get("HTTP_ORIGIN", "")):
                    raise failed_precondition("Origin header is missing in CORS preflight")
                text = ""
            else:
                text = self._process(method, path, lambda: self._body(environ))
        except ServingFault as fault:
            status = _STATUS.get(fault.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return _send(start_response, status, json.dumps({"error": fault.message}, indent=4), cors=cors)
        except Exception as error:  # a bug of ours answers as one, and the thread lives on
            log.exception("%s %s failed", method, path)
            text = json.dumps({"error": repr(error)})
            return _send(start_response, HTTPStatus.INTERNAL_SERVER_ERROR, text, cors=cors)
        return _send(start_response, HTTPStatus.OK, text, cors=cors)

    def _process(self, method: str, path: str, body: Callable[[], bytes]) -> str:
        if method == "POST" and (found := _INFER.fullmatch(path)):
            name, version, label, action = found.groups()
            spec = _spec(name, version, label)
            work = {"predict": self._predict, "classify": self._classify, "regress": self._regress}[action]
            return record_request(self._core, spec["name"], action, "REST", lambda: _parsed(work, spec, body()))
        if method == "GET" and (found := _LOOK.fullmatch(path)) and (found[4] or "metadata").lower() == "metadata":
            name, version, label, action = found.groups()
            if not name:
                raise invalid("Missing model name in request.")
            spec = _spec(name, version, label)
            # As TensorFlow Serving: what is not exactly `metadata` asks for the status.
            look = self._metadata if action == "metadata" else self._model_status
            return record_request(self._core, spec["name"], action or "status", "REST", lambda: look(spec))
        return record_request(self._core, "", "malformed", "REST", lambda: _malformed(method, path))

    def _body(self, environ: dict[str, Any]) -> bytes:
        """The body, decompressed.

        Raises:
            ServingFault: INVALID_ARGUMENT, for a body that is not gzip, or is too large.
        """
        body: bytes = environ["wsgi.input"].read()
        if environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() != "gzip":
            return body
        limit, inflater = self._core.options.rest_api_max_body_bytes, zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            body = inflater.decompress(body, limit)
        except zlib.error as error:
            raise invalid(f"the body cannot be decompressed: {error}") from error
        if inflater.unconsumed_tail:
            raise invalid(f"the body is more than {limit:,} bytes when decompressed; see --rest_api_max_body_bytes")
        if not inflater.eof:
            raise invalid("the body cannot be decompressed: it ends too early")
        return body

    @property
    def _seconds(self) -> float | None:
        return self._core.options.rest_api_timeout_in_ms / 1000 or None

    def _predict(self, spec: dict[str, Any], body: bytes) -> str:
        request = predict_pb2.PredictRequest(model_spec=spec)
        document = json_tensors.parse(body)
        request.model_spec.signature_name = json_tensors.signature_name(document)
        model = self._core.find(request.model_spec)
        name = request.model_spec.signature_name or inference.DEFAULT_SIGNATURE
        if name not in model.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        rows = json_tensors.fill_request(document, model.signatures[name].inputs, request.inputs)
        response = infer(self._core, "Predict", model, request, self._seconds)
        return json_tensors.outputs_to_json(response.outputs, rows)

    def _classify(self, spec: dict[str, Any], body: bytes) -> str:
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        self._examples(body, request)
        response = infer(self._core, "Classify", self._core.find(request.model_spec), request, self._seconds)
        return json_tensors.classes_to_json(response.result)

    def _regress(self, spec: dict[str, Any], body: bytes) -> str:
        request = regression_pb2.RegressionRequest(model_spec=spec)
        self._examples(body, request)
        response = infer(self._core, "Regress", self._core.find(request.model_spec), request, self._seconds)
        return json_tensors.regressions_to_json(response.result)

    @staticmethod
    def _examples(body: bytes, request: Any) -> None:
        document = json_tensors.parse(body)
        request.model_spec.signature_name = json_tensors.signature_name(document)
        json_tensors.fill_examples(document, request.input)

    def _model_status(self, spec: dict[str, Any]) -> str:
        response = model_status(self._core, get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
        return json_format.MessageToJson(
            response, always_print_fields_with_no_presence=True, preserving_proto_field_name=True, indent=1
        )

    def _metadata(self, spec: dict[str, Any]) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = model_metadata(self._core, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        how: dict[str, Any] = {"always_print_fields_with_no_presence": True, "preserving_proto_field_name": True}
        body = {
            "model_spec": json_format.MessageToDict(response.model_spec, **how),
            "metadata": {"signature_def": json_format.MessageToDict(signatures, **how)},
        }
        return json.dumps(body, indent=1) + "\n"


def _parsed(work: Callable[[dict[str, Any], bytes], str], spec: dict[str, Any], body: bytes) -> str:
    try:
        return work(spec, body)
    except RecursionError as error:
        raise invalid("JSON Parse error: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise invalid("JSON Parse error: half of a surrogate pair is no text") from error


def _malformed(method: str, path: str) -> str:
    raise invalid(f"Malformed request: {method} {path}")


def _spec(name: str, version: str | None, label: str | None) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": unquote(name)}
    if version is not None:
        if len(version) > 19 or int(version) >= 2**63:
            raise invalid(f"Failed to convert version: {version[:100]} to numeric.")
        spec["version"] = {"value": int(version)}
    if label is not None:
        spec["version_label"] = unquote(label)
    return spec


def _send(
    start_response: StartResponse,
    status: int,
    text: str,
    content_type: str = "application/json",
    cors: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    body = text.encode("utf-8", "surrogateescape")
    phrase = HTTPStatus(status).phrase if status != 499 else "Client Closed Request"
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *cors]
    start_response(f"{int(status)} {phrase}", headers)
    return [body]
