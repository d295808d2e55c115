"""TensorFlow's ProfilerService, so that TensorBoard can profile a running server.

Source: tsl/profiler/rpc/profiler_service_impl.cc, tsl/profiler/protobuf/profiler_service.proto; TensorFlow Serving has
it on its gRPC port where --enable_profiler asks for it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.python.profiler.internal import _pywrap_profiler
from tensorflow.tsl.profiler.protobuf import profiler_options_pb2

from serving.embedded_server.errors import from_code, invalid

log = logging.getLogger("mim")

SERVICE = "tensorflow.ProfilerService"
MAX_SECONDS = 600.0
_OPTIONS = ("host_tracer_level", "device_tracer_level", "python_tracer_level")
_UINT64, _BOOL, _STRING, _BYTES = 4, 8, 9, 12
_SCHEMA = {
    "ProfileRequest": (
        ("duration_ms", 1, _UINT64),
        ("repository_root", 5, _STRING),
        ("session_id", 6, _STRING),
        ("host_name", 7, _STRING),
        ("opts", 4, _BYTES),  # ProfileOptions: the same on the wire
        ("emit_xspace", 9, _BOOL),
    ),
    "ProfileResponse": (("xspace", 8, _BYTES),),  # XSpace
    "TerminateRequest": (("session_id", 1, _STRING),),
    "TerminateResponse": (),
}


def _build() -> dict[str, Any]:
    """The messages that are used of profiler_service.proto, which TensorFlow's wheel brings no Python module for."""
    file = descriptor_pb2.FileDescriptorProto(name="mim_profiler.proto", package="mim.profiler", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            message.field.add(name=field, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mim.profiler.{name}")) for name in _SCHEMA
    }


messages = _build()


class ProfilerService:
    """Profile and Terminate; its other methods are UNIMPLEMENTED.  One profile is taken at a time.

    Args:
        root: Where the callers' `repository_root` must lie; None for anywhere, as there.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root.resolve() if root is not None else None
        self._ended: dict[str, threading.Event] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """For `grpc.Server.add_generic_rpc_handlers`."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    behavior,
                    request_deserializer=messages[f"{name}Request"].FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, behavior in (("Profile", self.profile), ("Terminate", self.terminate))
            },
        )

    def profile(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Traces for as long as asked, or until the caller leaves; writes ROOT/SESSION/HOST.xplane.pb.

        Raises:
            ServingFault: INVALID_ARGUMENT, for a place that is not allowed or too long a time; ALREADY_EXISTS, while
                another profile is taken.
        """
        target = self._target(request)
        if not 0 < request.duration_ms <= MAX_SECONDS * 1_000:
            raise invalid(f"duration_ms must be from 1 to {MAX_SECONDS * 1_000:.0f}; received {request.duration_ms}")
        asked = profiler_options_pb2.ProfileOptions.FromString(request.opts)
        options = {name: getattr(asked, name) for name in _OPTIONS} if request.opts else {}
        with tempfile.TemporaryDirectory(prefix="mim-profile-") as folder:
            session = _pywrap_profiler.ProfilerSession()
            try:
                session.start(folder, options)
            except tf.errors.OpError as error:
                raise from_code(error.error_code, error.message) from error
            ended = self._ended[request.session_id] = threading.Event()
            try:
                context.add_callback(ended.set)  # the caller left
                ended.wait(request.duration_ms / 1_000)
            finally:
                self._ended.pop(request.session_id, None)
                session.export_to_tb()
            (made,) = Path(folder).rglob("*.xplane.pb")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made, target)
        log.info("profile of %.1f s written to %s", request.duration_ms / 1_000, target)
        return messages["ProfileResponse"](xspace=target.read_bytes() if request.emit_xspace else b"")

    def terminate(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Ends the profile of that session early."""
        if (ended := self._ended.get(request.session_id)) is not None:
            ended.set()
        return messages["TerminateResponse"]()

    def _target(self, request: Any) -> Path:
        if not Path(request.repository_root).is_absolute():
            raise invalid(f"repository_root must be an absolute path here; received {request.repository_root[:500]!r}")
        for name, text in (("session_id", request.session_id), ("host_name", request.host_name)):
            if not text.isprintable() or "/" in text or text in ("", ".", ".."):
                raise invalid(f"{name} must be the name of a file; received {text[:200]!r}")
        target = Path(request.repository_root) / request.session_id / f"{request.host_name.replace(':', '_')}.xplane.pb"
        if self._root is not None and not target.resolve().is_relative_to(self._root):
            raise invalid(
                f"profiles are written below --profiler_root {self._root}; received {request.repository_root!r}"
            )
        return target
