"""Starts and stops the embedded server."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.embedded_server.config_files import server_credentials
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.profiler import ProfilerService
from serving.embedded_server.request_ids import RequestIdInterceptor
from serving.embedded_server.rest import RestServer
from serving.embedded_server.server_core import ServerCore
from serving.embedded_server.services import AdminThreads, ModelService, PredictionService, RequestInterceptor
from serving.tracing import annotate_request, server_interceptor

log = logging.getLogger("mim")

_CALLS = 1_000  # at a time; one whose message trickles in keeps a thread waiting, and must not keep others out
_ADMIN_CALLS = 128  # the same, of status, reloads and profiles
_READY = 16  # threads that wait for them from the start
_SWITCH_SECONDS = 0.0005  # a thread that loads a model must not hold up those that answer
GRACE_SECONDS = 3.0
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent rival
    ("grpc.server_handshake_timeout_ms", 10_000),
]


class EmbeddedServer:
    """Serves models over gRPC, and REST where asked, until stopped; a context manager.

    Args:
        models: Folder of model folders of version folders; short for `options`.
        port: 0 for any free one; `server.port` tells which.
        host: Address to listen on.
        poll_seconds: Seconds between looks at the folders.
        options: Everything; instead of the others.
        tracer_provider: OpenTelemetry's; makes each gRPC call a span.

    Raises:
        OSError: the port is taken.
        ValueError: the options contradict each other, or a file they name cannot be read.
    """

    def __init__(
        self,
        models: str | Path | None = None,
        port: int = 8500,
        host: str = "127.0.0.1",
        poll_seconds: float = 1.0,
        options: ServerOptions | None = None,
        tracer_provider: Any | None = None,
    ) -> None:
        if options is None:
            path = Path(models) if models is not None else None
            options = ServerOptions(models=path, port=port, host=host, file_system_poll_wait_seconds=poll_seconds)
        self.options = options
        credentials = server_credentials(options.ssl_config_file) if options.ssl_config_file else None
        self.core = ServerCore(options)
        self._admin_threads, threads = futures.ThreadPoolExecutor(_ADMIN_CALLS, "admin"), _threads()
        own = options.admin_port is not None
        outer = _outer_interceptors(tracer_provider)
        self._server = self._grpc_server(threads, outer, not own)
        self._admin = self._grpc_server(threads, outer) if own else self._server
        self._checks: health.HealthServicer | None = None
        if options.enable_profiler:
            self._admin.add_generic_rpc_handlers((ProfilerService(options.profiler_root).handler(),))
        if options.enable_grpc_healthcheck_service:
            self._checks = health.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self._checks, self._server)
            for service in ("", "ModelService", "PredictionService"):
                self._checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        try:
            self.port = self._listen(self._server, f"{options.host}:{options.port}", credentials)
            if options.grpc_socket_path:
                self._listen(self._server, f"unix:{options.grpc_socket_path}", credentials)
            if own:
                self.admin_port = self._listen(self._admin, f"{options.host}:{options.admin_port}", credentials)
            self._rest = RestServer(self.core) if options.rest_api_port is not None else None
        except (OSError, ValueError):
            self.core.stop()
            raise
        self.address = f"{options.host}:{self.port}"
        self.rest_address = f"{options.host}:{self._rest.port}" if self._rest else None

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> EmbeddedServer:
        """Loads the models, then opens the ports to calls.

        Args:
            cancelled: Asked while models are loaded; ends the waiting for them.

        Raises:
            ServingFault: a model that the configuration names cannot be loaded.
            ValueError: the configuration cannot be read.
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # TensorFlow's half a million objects: a full collection of them would hold every call up
        try:
            self.core.start(cancelled)
        except BaseException:
            self.core.stop()
            raise
        self._server.start()
        if self._admin is not self._server:
            self._admin.start()
        if self._rest is not None:
            self._rest.start()
        return self

    def stop(self) -> None:
        """Says NOT_SERVING to health checks, lets calls in flight finish within `GRACE_SECONDS`, and ends."""
        if self._checks is not None:
            self._checks.enter_graceful_shutdown()
        drained = [server.stop(GRACE_SECONDS) for server in {self._server, self._admin}]
        self.core.drain()
        if self._rest is not None:
            self._rest.stop(GRACE_SECONDS)
        for server in drained:
            server.wait()
        self._admin_threads.shutdown(wait=False)
        self.core.stop()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _grpc_server(
        self, threads: futures.ThreadPoolExecutor, outer: list[grpc.ServerInterceptor], reloads: bool = True
    ) -> grpc.Server:
        server = grpc.server(
            threads,
            options=[
                ("grpc.max_receive_message_length", self.options.grpc_max_message_bytes),
                *_OPTIONS,
                *_arguments(self.options.grpc_channel_arguments),
            ],
            interceptors=[AdminThreads(self._admin_threads), *outer, RequestInterceptor(self.core)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(self.core), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.core, reloads), server)
        return server

    @staticmethod
    def _listen(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            what = "port" if ":" in address and not address.startswith("unix:") else "socket"
            raise OSError(
                f"{what} {address} cannot be had; is a server running there? Choose another --port"
            ) from error


def _threads() -> futures.ThreadPoolExecutor:
    pool = futures.ThreadPoolExecutor(_CALLS, "grpc")
    together = threading.Barrier(_READY)
    futures.wait([pool.submit(together.wait) for _ in range(_READY)])
    return pool


def _outer_interceptors(provider: Any | None) -> list[grpc.ServerInterceptor]:
    if provider is None:
        return [RequestIdInterceptor()]
    return [server_interceptor(provider), RequestIdInterceptor(annotate_request)]


def _arguments(text: str) -> list[tuple[str, Any]]:
    pairs = (pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    return [(key, int(value) if value.lstrip("-").isdigit() else value) for key, value in pairs]
