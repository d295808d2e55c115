"""How a client reaches a server: channel options, TLS, which failures are tried again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import grpc

from serving.tracing import aio_interceptors, traced_channel

# Predict only reads, so a call that never reached a server may be sent again; nothing else may.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),  # a C++ server answers faster pings with ENHANCE_YOUR_CALM
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]


_NOT_CONNECTED = re.compile("connect|backends failing|DNS|resol|Socket closed|GOAWAY|recvmsg", re.IGNORECASE)


class ServerError(RuntimeError):
    """A server refused a call or could not be reached.

    Attributes:
        code: The gRPC status.
        request_id: As the server got it; empty where nothing was sent.
    """

    def __init__(self, message: str, code: grpc.StatusCode, request_id: str = "") -> None:
        super().__init__(f"{message} (request {request_id})" if request_id else message)
        self.code, self.request_id = code, request_id

    @staticmethod
    def of(error: grpc.RpcError, target: str, request_id: str = "") -> ServerError:
        """What a failed call says, without the runtime's node names."""
        code, details = error.code(), (error.details() or "").split("\n\t [[")[0]
        if code == grpc.StatusCode.UNAVAILABLE and _NOT_CONNECTED.search(details):  # a server may say it, too
            details = f"no server answers at {target}; start one with `mim serve --models DIR` ({details})"
        return ServerError(f"{code.name}: {details}", code, request_id)


@dataclass(frozen=True)
class Tls:
    """Certificates, each a PEM text.

    Attributes:
        root: Of the authority that signed the server's; the system's authorities where empty.
        key, certificate: The client's own, where the server verifies clients.
        server_name: The name in the server's certificate, where it is not the target's.
    """

    root: bytes = b""
    key: bytes = b""
    certificate: bytes = b""
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them.

        Raises:
            ValueError: a key without a certificate, or the reverse.
        """
        if bool(self.key) != bool(self.certificate):
            raise ValueError("mTLS needs both the client's key and its certificate; received one of them. Give both")
        return grpc.ssl_channel_credentials(self.root or None, self.key or None, self.certificate or None)


def open_channel(
    target: str, tls: Tls | None = None, asynchronous: bool = False, tracer_provider: Any | None = None
) -> Any:
    """A channel to `host:port`, `dns:///name:port` (calls go round its addresses) or `unix:path`."""
    options = list(OPTIONS)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    more: dict[str, Any] = {"options": options}
    if asynchronous and tracer_provider is not None:
        more["interceptors"] = aio_interceptors(tracer_provider)
    library = grpc.aio if asynchronous else grpc
    if tls is None:
        channel = library.insecure_channel(target, **more)
    else:
        channel = library.secure_channel(target, tls.credentials(), **more)
    return channel if asynchronous or tracer_provider is None else traced_channel(channel, tracer_provider)
