"""TensorFlow Serving's two gRPC services over a `ServerCore`."""

from __future__ import annotations

import contextlib
import hmac
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.embedded_server.errors import ServingFault, from_code, invalid
from serving.embedded_server.handlers import ended, infer, model_metadata, model_status, record_request
from serving.embedded_server.loaded_model import LoadedModel
from serving.embedded_server.server_core import ServerCore

log = logging.getLogger("mim")
_WAITING = 64  # calls that may wait for a batch at a time
MAX_RELOADS = 4
INFERENCES = ("Predict", "Classify", "Regress", "MultiInference")
_INFERENCE_SERVICE = "/tensorflow.serving.PredictionService/"
_FOREVER = 1e8  # seconds


class RequestInterceptor(grpc.ServerInterceptor):
    """Counts and times every inference, and ends every call with the code of what went wrong.

    Args:
        core: Whose metrics.
    """

    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See `grpc.ServerInterceptor`."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or not details.method.startswith("/tensorflow."):
            return handler
        api = details.method.rsplit("/", 1)[1]

        def behavior(request: Any, context: grpc.ServicerContext) -> Any:
            def work() -> Any:
                return handler.unary_unary(request, context)

            try:
                if api in INFERENCES:  # as TensorFlow Serving counts
                    return record_request(self._core, _model_name(request), api, "GRPC", work)
                return ended(api, work)
            except ServingFault as fault:
                context.abort(fault.code, fault.message)

        return grpc.unary_unary_rpc_method_handler(behavior, handler.request_deserializer, handler.response_serializer)


class AdminThreads(grpc.ServerInterceptor):
    """Runs all calls but inferences in threads of their own.  It must be the first interceptor: gRPC looks at the
    outermost behavior alone.

    Args:
        threads: For these calls: inferences that keep all of theirs busy do not keep them out, nor the other way round.
    """

    def __init__(self, threads: futures.ThreadPoolExecutor) -> None:
        self._threads = threads

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See `grpc.ServerInterceptor`."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method.startswith(_INFERENCE_SERVICE):
            return handler

        def behavior(request: Any, context: grpc.ServicerContext) -> Any:
            return handler.unary_unary(request, context)

        behavior.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(behavior, handler.request_deserializer, handler.response_serializer)


def _model_name(request: Any) -> str:
    spec = request.tasks[0].model_spec if getattr(request, "tasks", None) else getattr(request, "model_spec", None)
    return spec.name if spec is not None else ""


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


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._turns = threading.BoundedSemaphore(
            _WAITING if core.options.enable_batching else core.options.grpc_max_threads
        )

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer("Predict", request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer("Classify", request, context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._infer("Regress", request, context)

    def _infer(self, api: str, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return self._run(api, self._core.find(request.model_spec), request, context)

    def _run(self, api: str, model: LoadedModel, request: Any, context: grpc.ServicerContext) -> Any:
        with self._turn(context):
            return infer(self._core, api, model, request, checked_seconds(self._core, seconds_left(context)))

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.tasks:
            raise invalid("Inference request must have at least one task.")
        return self._run("MultiInference", self._core.find(request.tasks[0].model_spec), request, context)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return model_metadata(self._core, request)

    @contextlib.contextmanager
    def _turn(self, context: grpc.ServicerContext) -> Iterator[None]:
        if not self._turns.acquire(timeout=seconds_left(context)):
            raise from_code(4, "Timed out waiting for notification")
        try:
            yield
        finally:
            self._turns.release()


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest.

    A reload waits until the new models are loaded.  At most `MAX_RELOADS` wait at a time, so that they leave threads to
    the other calls; one whose client is gone ends.

    Args:
        core: What is reloaded.
        reloads: Whether this port takes reloads.
    """

    def __init__(self, core: ServerCore, reloads: bool = True) -> None:
        self._core, self._takes_reloads = core, reloads
        self._reloads = threading.BoundedSemaphore(MAX_RELOADS)
        file = core.options.admin_token_file
        self._token = file.read_text().strip() if file is not None else None

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return model_status(self._core, request)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not self._takes_reloads:
            raise ServingFault(
                grpc.StatusCode.PERMISSION_DENIED, "HandleReloadConfigRequest is answered on --admin_port alone"
            )
        self._authorize(context)
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                "currently supported"
            )
        if not self._reloads.acquire(blocking=False):
            raise from_code(8, f"{MAX_RELOADS} configurations are being loaded; try again when they are")
        try:
            log.info("Config entry changed: %d models", len(request.config.model_config_list.config))
            self._core.reload_config(request.config, cancelled=lambda: not context.is_active())
        finally:
            self._reloads.release()
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = 0
        return response

    def _authorize(self, context: grpc.ServicerContext) -> None:
        if self._token is None:
            return
        given = dict(context.invocation_metadata()).get("authorization", "")
        if not hmac.compare_digest(str(given).encode(), f"Bearer {self._token}".encode()):
            raise ServingFault(
                grpc.StatusCode.UNAUTHENTICATED,
                "HandleReloadConfigRequest needs the bearer token of --admin_token_file",
            )
