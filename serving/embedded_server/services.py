"""TensorFlow Serving's two gRPC services over a `ServerCore`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.embedded_server import inference
from serving.embedded_server.errors import ServingFault, from_code, invalid
from serving.embedded_server.server_core import ServerCore

log = logging.getLogger("mim")
_WAITING = 64  # calls that may wait for a batch at a time
_FOREVER = 1e8  # seconds
Answer = TypeVar("Answer")


def _answered(context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except ServingFault as fault:
        context.abort(fault.code, fault.message)
        raise AssertionError("abort does not return") from fault


def seconds_left(context: grpc.ServicerContext) -> float | None:
    """Until the call's deadline; None where it has none, which gRPC tells as some 10**21 seconds."""
    left = context.time_remaining()
    return None if left is None or left > _FOREVER else left


def checked_seconds(core: ServerCore, seconds: float | None) -> float | None:
    """How long a session may run for a call with `seconds` left.

    Raises:
        ServingFault: DEADLINE_EXCEEDED, where none are.
    """
    if seconds is None or not core.options.enforce_session_run_timeout:
        return None
    if seconds <= 0:
        raise from_code(4, "Timed out waiting for notification")
    return seconds


def measured(core: ServerCore, name: str, api: str, entrypoint: str, work: Callable[[], Answer]) -> Answer:
    """Counts and times a request.

    Args:
        core: Whose metrics.
        name: Of the model.
        api: Predict, Classify or Regress.
        entrypoint: GRPC or REST.
        work: Answers it.

    Raises:
        ServingFault: what `work` raised.
    """
    started = time.perf_counter()
    try:
        answer = work()
    except ServingFault as fault:
        core.monitoring.request_count.add(name, fault.code.name)
        raise
    core.monitoring.request_latency.add((time.perf_counter() - started) * 1e6, name, api, entrypoint)
    core.monitoring.request_count.add(name, "OK")
    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._turns = threading.BoundedSemaphore(
            _WAITING if core.options.enable_batching else core.options.grpc_max_threads
        )

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer(inference.predict, "Predict", request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer(inference.classify, "Classify", request, context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer(inference.regress, "Regress", request, context)

    def _infer(self, run: Any, api: str, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            model = self._core.find(request.model_spec)
            with self._turn(context):
                return run(model, request, checked_seconds(self._core, seconds_left(context)))

        return _answered(context, lambda: measured(self._core, request.model_spec.name, api, "GRPC", work))

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            if not request.tasks:
                raise invalid("Inference request must have at least one task.")
            model = self._core.find(request.tasks[0].model_spec)
            with self._turn(context):
                return inference.multi_inference(model, request, checked_seconds(self._core, seconds_left(context)))

        return _answered(context, work)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: model_metadata(self._core, request))

    @contextlib.contextmanager
    def _turn(self, context: grpc.ServicerContext) -> Iterator[None]:
        if not self._turns.acquire(timeout=seconds_left(context)):
            raise from_code(4, "Timed out waiting for notification")
        try:
            yield
        finally:
            self._turns.release()


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: model_status(self._core, request))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                    "currently supported"
                )
            log.info("Config entry changed: %d models", len(request.config.model_config_list.config))
            self._core.reload_config(request.config)
            response = model_management_pb2.ReloadConfigResponse()
            response.status.error_code = 0
            return response

        return _answered(context, work)


def model_metadata(core: ServerCore, request: Any) -> Any:
    """A GetModelMetadataResponse.

    Raises:
        ServingFault: INVALID_ARGUMENT or NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for wanted in request.metadata_field:
        if wanted != "signature_def":
            raise invalid(f"Metadata field {wanted} is not supported")
    model = core.find(request.model_spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model.name
    response.model_spec.version.value = model.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in model.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


def model_status(core: ServerCore, request: Any) -> Any:
    """A GetModelStatusResponse.

    Raises:
        ServingFault: INVALID_ARGUMENT or NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in core.status(request.model_spec):
        entry = response.model_version_status.add(version=version, state=state.state)
        entry.status.error_code, entry.status.error_message = state.code, state.message
    return response
