"""Errors with the codes and texts that TensorFlow Serving gives."""

from __future__ import annotations

import grpc


class ServingFault(Exception):
    """Ends a call with a gRPC code and a message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @staticmethod
    def named(number: int) -> str:
        """The name of a canonical code."""
        return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")


def invalid(message: str) -> ServingFault:
    """INVALID_ARGUMENT."""
    return ServingFault(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingFault:
    """NOT_FOUND."""
    return ServingFault(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingFault:
    """FAILED_PRECONDITION."""
    return ServingFault(grpc.StatusCode.FAILED_PRECONDITION, message)


def from_code(number: int, message: str) -> ServingFault:
    """A fault with the canonical code `number`, as TensorFlow's errors carry it."""
    code = next((c for c in grpc.StatusCode if c.value[0] == number), grpc.StatusCode.UNKNOWN)
    return ServingFault(code, message)
