"""From an item's event to its vector: watches for news, has it encoded, stores the vector."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.client import MimClient, ServerError
from serving.representation_center.center import CenterError, CenterUnavailable, RepresentationCenter
from serving.representation_center.events import ContentSource, EventSource, ItemEvent, printable
from serving.representation_center.records import MAX_ID_BYTES

log = logging.getLogger("mim")

# The encoder may be away, and back later; a time-out may also be the content's.
TRANSIENT = ("UNAVAILABLE", "NOT_FOUND", "CANCELLED", "ABORTED")
OVERLOADED = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
REASON_LENGTH, MAX_NAME = 300, 120


class EncoderUnavailable(RuntimeError):
    """Nothing can be encoded just now; the same work will be tried again."""


@dataclass(frozen=True)
class WatchConfig:
    """How a watcher works.

    Attributes:
        batch_size: Contents a call of the encoder.
        max_attempts: After so many failures of its own an item is parked.
        idle_seconds: Between looks at a source that has nothing.
        retry_seconds: The longest wait while the encoder, or the Center, is away.
        refresh_seconds: How often the queue of misses is looked at, and the encoder's version.
    """

    batch_size: int = 64
    max_attempts: int = 3
    idle_seconds: float = 0.1
    retry_seconds: float = 5.0
    refresh_seconds: float = 1.0


class Watcher:
    """Encodes what the source tells of and what readers missed.

    At least once: an event is settled when its vector can be read.  Twice does no harm: content whose hash the
    Center has already is not encoded again.  What cannot be encoded after `max_attempts` is parked with its
    reason; what fails because the encoder or the Center is away is tried until they are back.

    Args:
        center: Where vectors go.
        client: Of the server that has the encoder.
        source: Of events.
        catalogue: Where content of missed items is looked up; without it they wait for an event.
        config: How to work.
    """

    def __init__(
        self,
        center: RepresentationCenter,
        client: MimClient,
        source: EventSource,
        catalogue: ContentSource | None = None,
        config: WatchConfig | None = None,
    ) -> None:
        self._center, self._client, self._source, self._catalogue = center, client, source, catalogue
        self._config = config or WatchConfig()
        self._attempts: Counter[str] = Counter()
        self._taken: list[ItemEvent] = []
        self._encoder_version = ""
        self._next_look = 0.0
        self._answers = False  # whether the encoder answered since it was last away
        self._one_by_one = False  # after the encoder went away over a batch: perhaps over one of its contents

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set."""
        wait = self._config.idle_seconds
        last_error = ""
        while not stop.is_set():
            try:
                busy = self.step()
                wait, last_error = self._config.idle_seconds, ""
            except (EncoderUnavailable, CenterError, OSError) as error:
                if str(error) != last_error:
                    log.warning("%s; trying again", error)
                wait, busy, last_error = min(self._config.retry_seconds, 2 * wait), False, str(error)
            if not busy:
                stop.wait(wait)

    def step(self) -> bool:
        """Does one batch; returns whether there was anything to do.

        Raises:
            EncoderUnavailable: the encoder does not answer; the batch is kept and tried by the next step.
            CenterError: the Center cannot be used, or lacks the version of the served encoder; likewise.
        """
        if not self._taken:
            self._taken = self._source.poll(self._config.batch_size)
        look = time.monotonic() >= self._next_look
        if look or not self._answers:
            self._next_look = time.monotonic() + self._config.refresh_seconds
            self._encoder_version = self._ask_version()
            self._update_gauges()
        work = [*self._taken, *(self._missed() if look else [])]
        if not work:
            return False
        latest: dict[str, ItemEvent] = {}
        for event in work:  # the last word on an item is what counts
            if event.content is None:
                self._park(event, event.error)
            elif event.item_id not in latest or latest[event.item_id].event_time <= event.event_time:
                latest[event.item_id] = event
        events = list(latest.values())
        size = 1 if self._one_by_one else max(1, len(events))
        for begin in range(0, len(events), size):
            self._store_or_park(events[begin : begin + size])
        self._one_by_one = False
        self._source.ack(self._taken)
        self._taken = []
        return True

    def _missed(self) -> list[ItemEvent]:
        """Missed items whose content the catalogue has; it is older than any event."""
        if self._catalogue is None or not (queued := self._center.claim(self._config.batch_size)):
            return []
        return [ItemEvent(item_id, content, 0.0) for item_id, content in self._catalogue.find(queued).items()]

    def _store_or_park(self, events: Sequence[ItemEvent]) -> None:
        """Stores; where something unforeseen befalls events, parks the one that it is about."""
        try:
            self._store(events)
        except (EncoderUnavailable, CenterError, OSError):
            raise
        except Exception as error:
            if len(events) == 1:
                log.exception("item %r", events[0].item_id)
                self._park(events[0], repr(error))
            else:
                for event in events:
                    self._store_or_park([event])

    def _store(self, events: Sequence[ItemEvent]) -> None:
        if not events:
            return
        if not self._encoder_version:
            self._encoder_version = self._ask_version()
        there = self._center.content_hashes([event.item_id for event in events], self._encoder_version)
        new: list[ItemEvent] = []
        same: list[ItemEvent] = []
        for event, hashed in zip(events, there, strict=True):
            known = event.content is not None and event.content.hash == hashed
            (same if known else new).append(event)
        self._keep(same)
        self._encode([event for event in new if event.content and event.content.modalities])
        empty = [event for event in new if event.content and not event.content.modalities]
        if empty:
            dimension = self._center.version(self._encoder_version).dimension
            self._put(empty, np.zeros((len(empty), dimension), np.float32), self._encoder_version)

    def _keep(self, events: Sequence[ItemEvent]) -> None:
        """Stores the vectors that are there under the time of these events, which say that they still hold."""
        if not events:
            return
        self._center.metrics.skipped.inc(len(events))
        found = self._center.get([event.item_id for event in events], self._encoder_version, queue_misses=False)
        there = [event for event, stored in zip(events, found.stored, strict=True) if stored]
        if there:
            self._put(there, found.vectors[found.stored], self._encoder_version)

    def _encode(self, events: Sequence[ItemEvent]) -> None:
        """Encodes and stores; where the encoder refuses a batch, its halves are tried, down to the item it is."""
        if not events:
            return
        contents = [event.content for event in events if event.content is not None]
        try:
            vectors, version, _ = self._client.embed_many([(c.image, c.title, c.text) for c in contents])
        except ServerError as error:
            away = error.code.name in TRANSIENT
            if error.code.name in OVERLOADED:
                self._ask_version()  # an encoder that answers nothing is away
            if away and not self._answers:
                raise EncoderUnavailable(str(error)) from error
            self._answers = self._answers and not away
            if len(events) == 1:
                self._attempts[events[0].item_id] += 1
                if self._attempts[events[0].item_id] >= self._config.max_attempts:
                    self._park(events[0], str(error))
                    return
            if away:  # it may be what brought the encoder down
                self._one_by_one = True
                raise EncoderUnavailable(str(error)) from error
            if len(events) == 1:
                self._encode(events)
                return
            middle = len(events) // 2
            self._encode(events[:middle])
            self._encode(events[middle:])
            return
        except ValueError as error:  # of one of the contents: a picture that cannot be read, words that cannot be sent
            if len(events) == 1:
                self._park(events[0], str(error))
                return
            for event in events:
                self._encode([event])
            return
        self._answers = True
        self._encoder_version = version
        self._put(events, vectors, version)
        self._center.metrics.encoded.inc(len(events))

    def _put(self, events: Sequence[ItemEvent], vectors: np.ndarray, version: str) -> None:
        contents = [event.content for event in events if event.content is not None]
        self._center.put(
            version,
            [event.item_id for event in events],
            [content.hash for content in contents],
            vectors,
            np.array([content.modalities for content in contents], np.uint8),
            np.array([event.event_time for event in events]),
        )
        now = time.time()
        for event in events:
            if event.event_time:
                self._center.metrics.event_seconds.observe(max(0.0, now - event.event_time))
            self._attempts.pop(event.item_id, None)

    def _park(self, event: ItemEvent, reason: str) -> None:
        log.warning("item %r parked: %r", event.item_id, reason)
        self._attempts.pop(event.item_id, None)
        name = event.item_id if len(event.item_id.encode()) <= MAX_ID_BYTES else event.item_id[:MAX_NAME]
        self._center.park(name, printable(reason[:REASON_LENGTH]))

    def _ask_version(self) -> str:
        try:
            version = self._client.embed_many([(b"", "version", "")]).encoder_version
        except ServerError as error:
            self._answers = False
            raise EncoderUnavailable(str(error)) from error
        self._answers = True
        return version

    def _update_gauges(self) -> None:
        """Brings the gauges up to date."""
        try:
            stats = self._center.stats()
        except CenterUnavailable:
            return
        metrics = self._center.metrics
        metrics.queued.set(stats.queued)
        metrics.parked.set(stats.parked)
        metrics.vectors.clear()
        for name, count in stats.counts.items():
            metrics.vectors.labels(name).set(count)
        if stats.newest is not None:
            metrics.newest_age.set(max(0.0, time.time() - stats.newest))
