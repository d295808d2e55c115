"""What the blocking and the asyncio client share: settings, time limits, the look into the Representation Center."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from serving import messages
from serving.channel import Tls, open_channel
from serving.client_core import CenterLookup, ClientCore, RpcCall
from serving.request_log import RequestLog

if TYPE_CHECKING:
    from serving.representation_center.center import RepresentationCenter

log = logging.getLogger("mim")

Metadata = Sequence[tuple[str, str]]
CENTER_THREADS = 4  # concurrent lookups; past twice as many in flight, a call goes without
CENTER_SHARE = 0.5  # of the time that is left: the ranker must still be asked with the vectors


class BaseClient:
    """One channel to one server; see `MimClient` for the arguments."""

    asynchronous = False

    def __init__(
        self,
        target: str = "localhost:8500",
        timeout: float = 2.0,
        center: RepresentationCenter | None = None,
        *,
        tls: Tls | None = None,
        metadata: Metadata | Callable[[], Metadata] = (),
        versions: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        canaries: Mapping[str, float] | None = None,
        allow_fallback: bool = False,
        validate: bool = True,
        request_log: RequestLog | None = None,
    ) -> None:
        self._target, self._timeout = target, timeout
        self._metadata, self._log = metadata, request_log
        self._center = None if center is None else CenterReader(center)
        self._core = ClientCore(
            center is not None, versions or {}, labels or {}, canaries or {}, allow_fallback, validate
        )
        self._channel: Any = open_channel(target, tls, asynchronous=self.asynchronous)
        self._calls = messages.calls(self._channel)

    def _send(self, call: RpcCall, deadline: float) -> Any:
        """Sends a call; returns its response, or what to await for it."""
        metadata = self._metadata() if callable(self._metadata) else self._metadata
        left = max(0.001, deadline - time.monotonic())
        return self._calls[call.method](call.request, timeout=left, metadata=tuple(metadata))

    @staticmethod
    def _center_seconds(deadline: float) -> float:
        return max(0.0, CENTER_SHARE * (deadline - time.monotonic()))

    def _log_request(self, call: RpcCall) -> None:
        if self._log is not None and call.method == "Predict":
            self._log.offer(call.request)


class CenterReader:
    """Reads vectors in threads of its own, so that a store that does not answer costs vectors and never an answer.

    Args:
        center: The store.
    """

    def __init__(self, center: RepresentationCenter) -> None:
        self._center = center
        self._threads = ThreadPoolExecutor(CENTER_THREADS, "center")
        self._lock, self._waiting = threading.Lock(), 0

    def start(self, lookup: CenterLookup) -> Future[Any] | None:
        """Begins to read; None where too many reads wait already."""
        with self._lock:
            if self._waiting >= 2 * CENTER_THREADS:
                log.warning(
                    "the Representation Center is overloaded; %d items are ranked without", len(lookup.item_ids)
                )
                return None
            self._waiting += 1
        try:
            future = self._threads.submit(self._read, lookup)
        except RuntimeError:  # closed
            self._done()
            return None
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Takes no more reads."""
        self._threads.shutdown(wait=False)

    def _done(self, _: Any = None) -> None:
        with self._lock:
            self._waiting -= 1

    def _read(self, lookup: CenterLookup) -> Any:
        try:
            found = self._center.get(lookup.item_ids, lookup.encoder_version)
            if len(found.mask) != len(lookup.item_ids) or len(found.vectors) != len(lookup.item_ids):
                raise ValueError(f"{len(found.vectors)} vectors of {len(lookup.item_ids)} items")
            return found
        except BaseException as error:  # whatever befalls the Center: the items are ranked without their embeddings
            log.warning("%s; %d new items are ranked without their vectors", error, len(lookup.item_ids))
            return None
