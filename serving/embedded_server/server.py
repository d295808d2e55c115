"""Starts and stops the embedded server."""

from __future__ import annotations

from concurrent import futures
from pathlib import Path

import grpc

from serving.embedded_server.model_store import ModelStore
from serving.embedded_server.services import ModelService, PredictionService
from serving.stubs import model_service_pb2_grpc, prediction_service_pb2_grpc

WORKERS = 4
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent rival
]


class EmbeddedServer:
    """Serves the models below a folder, on one gRPC port, until stopped; a context manager.

    Args:
        models: Folder of model folders of version folders.
        port: 0 for any free one; `server.port` tells which.
        host: Address to listen on.
        poll_seconds: Seconds between looks at the folders.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self, models: str | Path, port: int = 8500, host: str = "127.0.0.1", poll_seconds: float = 1.0
    ) -> None:
        self.store = ModelStore(Path(models), poll_seconds)
        self._server = grpc.server(futures.ThreadPoolExecutor(WORKERS), options=_OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(self.store), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.store), self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(
                f"port {port} on {host} cannot be had; is a server running there? Choose another --port"
            ) from error
        self.address = f"{host}:{self.port}"

    def start(self) -> EmbeddedServer:
        """Loads the models, then opens the port to calls."""
        self.store.start()
        self._server.start()
        return self

    def stop(self) -> None:
        """Lets calls in flight finish, within five seconds."""
        self._server.stop(5).wait()
        self.store.stop()

    def wait(self) -> None:
        """Blocks until the server is stopped."""
        self._server.wait_for_termination()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
