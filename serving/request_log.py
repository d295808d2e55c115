"""A sample of the requests that were answered, to be replayed against another version.

The file holds serialised PredictRequests, each after its length: protobuf's delimited form.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from serving import messages

log = logging.getLogger("mim")


class RequestLog:
    """Appends a share of the requests to a file; safe among threads.

    Args:
        path: Created where missing.
        share: Of the requests, 0 to 1.
        max_bytes: The file grows no further.
    """

    def __init__(self, path: str | Path, share: float = 0.01, max_bytes: int = 1 << 28) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1; received {share}")
        self._path, self._share, self._max_bytes = Path(path), share, max_bytes
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        self._lock = threading.Lock()
        self.lost = 0  # records that could not be written

    def offer(self, request: Any) -> None:
        """Writes the request, perhaps.  A disk that is full costs the record, never the call."""
        if self._share < 1 and random.random() >= self._share:
            return
        with self._lock:
            try:
                if not self._file.closed and self._file.tell() < self._max_bytes:
                    serialize_length_prefixed(request, self._file)
                    self._file.flush()
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    log.warning("the request log %s cannot be written: %s", self._path, error)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()


def read_requests(path: str | Path) -> Iterator[Any]:
    """The PredictRequests in a file that `RequestLog` wrote; one that was cut off by a crash is left out.

    Raises:
        ValueError: the file is of another kind.
    """
    with Path(path).open("rb") as file:
        while True:
            place = file.tell()
            try:
                request = parse_length_prefixed(messages.PredictRequest, file)
            except Exception as error:
                if place and _is_tail(file):
                    return
                raise ValueError(f"{path} holds no logged requests (byte {place}): {error}") from error
            if request is None:
                return
            yield request


def _is_tail(file: Any) -> bool:
    return not file.read(1)
