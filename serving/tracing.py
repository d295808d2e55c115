"""Spans of OpenTelemetry, where a tracer provider is given; nothing of it is imported where none is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import grpc

from serving.request_id import current_request_id

SERVICES = "/tensorflow.serving."


def open_tracer(provider: Any | None) -> Any | None:
    """The tracer that `span` takes; None without a provider."""
    return None if provider is None else provider.get_tracer("mim")


def span(tracer: Any | None, name: str) -> AbstractContextManager[Any]:
    """A span, with the request's id, around what is done within it; an exception ends it as an error.

    Gives the span; None without a tracer.
    """
    if tracer is None:
        return nullcontext()
    return _span(tracer, name)


@contextmanager
def _span(tracer: Any, name: str) -> Iterator[Any]:
    with tracer.start_as_current_span(name) as own:
        try:
            yield own
        finally:  # a client's metadata may have named it meanwhile
            own.set_attribute("mim.request_id", current_request_id())


def traced_channel(channel: grpc.Channel, provider: Any) -> grpc.Channel:
    """A channel whose calls are spans, and carry the trace to the server."""
    from opentelemetry.instrumentation.grpc import client_interceptor
    from opentelemetry.instrumentation.grpc.grpcext import intercept_channel

    return intercept_channel(channel, client_interceptor(provider))


def aio_interceptors(provider: Any) -> list[Any]:
    """The same for asyncio: what a channel is opened with."""
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    return aio_client_interceptors(provider)


def server_interceptor(provider: Any) -> grpc.ServerInterceptor:
    """Makes each call of TensorFlow Serving's services a span, below the client's."""
    from opentelemetry.instrumentation.grpc import server_interceptor

    return server_interceptor(provider, lambda details: details.method.startswith(SERVICES))


def annotate_request() -> None:
    """Adds the request's id to the span of the call that is answered."""
    from opentelemetry import trace

    trace.get_current_span().set_attribute("mim.request_id", current_request_id())


def otlp_provider(service: str, endpoint: str) -> Any:
    """A tracer provider that sends its spans to a collector in batches; `shutdown` sends the last ones.

    Args:
        service: Name of this one among the services that are traced.
        endpoint: `http://host:port` or `https://host:port` of OTLP over gRPC.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider
