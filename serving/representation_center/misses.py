"""Items that readers missed, kept in this process and written to the store's queue by a thread.

A reader never waits for a write, and never fails because a queue cannot be written.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable

log = logging.getLogger("mim")

FLUSH_SECONDS = 0.25
MAX_BUFFERED = 50_000  # items; more are dropped and counted, a later miss queues them
LEASE_SECONDS, RENEW_SECONDS = 600.0, 60.0
_buffers: weakref.WeakSet[MissBuffer] = weakref.WeakSet()


class MissBuffer:
    """Collects misses, and the versions that are read.

    Args:
        enqueue: Writes items to the queue.
        lease: Says that a version is in use for so many seconds.
        dropped: Counts items that were not queued.
    """

    def __init__(
        self,
        enqueue: Callable[[list[str]], object],
        lease: Callable[[str, float], object],
        dropped: Callable[[int], object],
    ) -> None:
        self._enqueue, self._lease, self._dropped = enqueue, lease, dropped
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._items: dict[str, None] = {}
        self._versions: dict[str, float] = {}  # version → when its lease is to be renewed
        self._due: set[str] = set()
        self._process, self._stop = 0, threading.Event()
        _buffers.add(self)

    def forget_parent(self) -> None:
        """In a forked process: new locks, since the parent's may be held for good, and none of its misses."""
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._items, self._due, self._versions = {}, set(), {}

    def add(self, item_ids: Iterable[str]) -> None:
        """Keeps items to be queued."""
        with self._lock:
            for item_id in item_ids:
                if len(self._items) < MAX_BUFFERED:
                    self._items[item_id] = None
                elif item_id not in self._items:
                    self._dropped(1)
        self._start()

    def used(self, version: str) -> None:
        """Renews the lease of a version, if it is due."""
        if self._versions.get(version, 0.0) < time.monotonic():
            with self._lock:
                self._versions[version] = time.monotonic() + RENEW_SECONDS
                self._due.add(version)
            self._start()

    def flush(self) -> None:
        """Writes what was collected; what the store does not take is dropped and counted."""
        with self._writing:
            with self._lock:
                items, self._items = list(self._items), {}
                versions, self._due = self._due, set()
            for version in versions:
                self._try(functools.partial(self._lease, version, LEASE_SECONDS), 0)
            if items:
                self._try(lambda: self._enqueue(items), len(items))

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        self._stop.set()
        if self._process == os.getpid():
            self.flush()

    def _try(self, write: Callable[[], object], count: int) -> None:
        try:
            write()
        except Exception as error:  # of whatever kind: a queue is not worth an answer
            self._dropped(count)
            log.warning("misses cannot be queued: %s", error)

    def _start(self) -> None:
        """Starts the thread, in the process that reads: threads do not survive a fork."""
        if self._process != os.getpid() and not self._stop.is_set():
            with self._lock:
                if self._process == os.getpid():
                    return
                self._process = os.getpid()
            threading.Thread(target=self._run, name="center-misses", daemon=True).start()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            if self._items or self._due:
                self.flush()


def _forget_parent() -> None:
    for buffer in _buffers:
        buffer.forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
