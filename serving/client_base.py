"""What the blocking and the asyncio client share: settings, time limits, the look into the Representation Center."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from serving import messages
from serving.channel import ServerError, Tls, open_channel
from serving.client_core import CenterLookup, ClientCore, Flow, RpcCall, Scores
from serving.exposure_log import Exposure, ExposureLog
from serving.request_id import HEADER, adopt, current_request_id, request_id
from serving.request_log import RequestLog
from serving.tracing import open_tracer, span

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
        exposure_log: ExposureLog | None = None,
        tracer_provider: Any | None = None,
    ) -> None:
        self._target, self._timeout = target, timeout
        self._metadata, self._log, self._exposures = metadata, request_log, exposure_log
        self._tracer = open_tracer(tracer_provider)
        self._center = None if center is None else CenterReader(center)
        self._core = ClientCore(
            center is not None, versions or {}, labels or {}, canaries or {}, allow_fallback, validate
        )
        self._channel: Any = open_channel(target, tls, self.asynchronous, tracer_provider)
        self._calls = messages.calls(self._channel)

    @contextmanager
    def _question(self, flow: Flow[Any]) -> Iterator[Callable[[Any], None]]:
        """A question's request id and span; gives what to call with its result."""
        name = getattr(flow, "__name__", "question")
        with request_id(current_request_id()), span(self._tracer, f"mim.{name}") as own:

            def answered(result: Any) -> None:
                if own is not None and isinstance(result, Scores):
                    own.set_attributes({"mim.version": result.version, "mim.items": len(result)})

            yield answered

    def _send(self, call: RpcCall, deadline: float) -> Any:
        """Sends a call; returns its response, or what to await for it."""
        metadata = tuple(self._metadata() if callable(self._metadata) else self._metadata)
        own = next((value for key, value in metadata if key == HEADER), "")
        if own:
            adopt(own)
        else:
            metadata = (*metadata, (HEADER, current_request_id()))
        left = max(0.001, deadline - time.monotonic())
        return self._calls[call.method](call.request, timeout=left, metadata=metadata)

    def _failure(self, error: grpc.RpcError) -> ServerError:
        failure = ServerError.of(error, self._target, current_request_id())
        failure.__cause__ = error
        return failure

    @staticmethod
    def _center_seconds(deadline: float) -> float:
        return max(0.0, CENTER_SHARE * (deadline - time.monotonic()))

    def _log_request(self, call: RpcCall) -> None:
        if self._log is not None and call.method == "Predict":
            self._log.offer(call.request)

    def _log_exposure(self, exposure: Exposure) -> None:
        if self._exposures is not None:
            self._exposures.add(exposure)


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
            future = self._threads.submit(contextvars.copy_context().run, self._read, lookup)
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
