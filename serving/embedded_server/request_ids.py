"""Requests by their ids: read from a call's metadata, made where there is none, told back and logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from serving.request_id import HEADER, MAX_LENGTH, request_id
from serving.tracing import SERVICES


class RequestIdInterceptor(grpc.ServerInterceptor):
    """Gives each call its `x-request-id`: what is logged has it, and the trailing metadata of the answer.

    Args:
        annotate: Called within each request.
    """

    def __init__(self, annotate: Callable[[], None] = lambda: None) -> None:
        self._annotate = annotate

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See `grpc.ServerInterceptor`."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or not details.method.startswith(SERVICES):
            return handler
        given = next((value for key, value in details.invocation_metadata if key == HEADER), "")[:MAX_LENGTH]

        def behavior(request: Any, context: grpc.ServicerContext) -> Any:
            with request_id(given) as value:
                context.set_trailing_metadata(((HEADER, value),))
                self._annotate()
                return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(behavior, handler.request_deserializer, handler.response_serializer)
