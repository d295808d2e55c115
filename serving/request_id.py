"""The id of a request: one for a question of a client and for all its calls, in metadata, spans, logs and messages."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "x-request-id"  # of a call's metadata
MAX_LENGTH = 128
_current: ContextVar[str] = ContextVar("mim_request_id", default="")


def current_request_id() -> str:
    """The id of the request that is worked on; empty outside of one."""
    return _current.get()


@contextmanager
def request_id(value: str = "") -> Iterator[str]:
    """Gives what is asked and logged within the id `value`: in this thread, or in this task of asyncio.

    Args:
        value: A new one where empty.

    Raises:
        ValueError: not 1 to 128 printable ASCII characters.

    Example:
        >>> from serving.request_id import current_request_id, request_id
        >>> with request_id("7f3c"):
        ...     current_request_id()
        '7f3c'
    """
    if len(value) > MAX_LENGTH or not (value.isascii() and (value.isprintable() or not value)):
        raise ValueError(
            f"a request id is 1 to {MAX_LENGTH} printable ASCII characters; received {value[:MAX_LENGTH]!r}. Change it"
        )
    value = value or uuid.uuid4().hex
    token = _current.set(value)
    try:
        yield value
    finally:
        _current.reset(token)


def adopt(value: str) -> None:
    """Makes `value` the id of the request that is worked on, to its end."""
    _current.set(value)


class _WithRequestId(logging.Filter):
    """Ends a message that is logged within a request with its id, which is the record's `request_id` too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if value := _current.get():
            record.request_id = value
            message = record.getMessage()
            if value not in message:  # an error that is told has it already
                record.msg, record.args = f"{message} (request {value})", ()
        return True


logging.getLogger("mim").addFilter(_WithRequestId())
