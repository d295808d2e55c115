"""The Representation Center: where embeddings live once they are asked for online.

One interface, two stores: `LmdbCenter` (a folder, memory-mapped, for the processes of one machine) and
`RedisCenter` (for many machines).  Each encoder version keeps its vectors apart; one version is *active*, and a
reader who names no version reads that one alone.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from serving.representation_center.metrics import CenterMetrics
from serving.representation_center.misses import MissBuffer
from serving.representation_center.records import MAX_ID_BYTES, Found, RecordFormat
from serving.representation_center.vectors import DTYPES

MAX_QUEUED, MAX_ATTEMPTS = 100_000, 6  # items that wait for their encoding; lookups of one
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")


class CenterError(RuntimeError):
    """The Center cannot do what was asked.  The message names the rule, what came and the fix."""


class VersionMissing(CenterError):
    """The Center does not hold this version of the encoder."""


class CenterUnavailable(CenterError):
    """The store behind the Center does not answer; it may later."""


@dataclass(frozen=True)
class Version:
    """One encoder version in a Center.

    Attributes:
        name: The encoder's version.
        digest: Of the encoder's weights, or empty where it is not known.
        dimension, dtype: Of its vectors.
        ready: False while its first snapshot is being loaded; it cannot be promoted until it is.
        created_at: When it was added to the Center, seconds since the epoch; the Center sets it.
    """

    name: str
    digest: str
    dimension: int
    dtype: str
    ready: bool = False
    created_at: float = 0.0

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.name):
            raise CenterError(
                f"an encoder version is 1 to 64 letters, digits, dots, dashes or underscores; received {self.name!r}"
            )
        if self.dtype not in DTYPES or self.dimension < 1:
            raise CenterError(
                f"vectors have a dimension of at least 1 and a dtype among {', '.join(DTYPES)}; version {self.name} "
                f"was given {self.dimension} and {self.dtype!r}"
            )

    @property
    def records(self) -> RecordFormat:
        """How its vectors are stored."""
        return RecordFormat(self.dimension, self.dtype)

    def to_mapping(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Stats:
    """What a Center holds.

    Attributes:
        active, previous: Versions that are read now, and that `rollback` goes back to.
        counts: Vectors of each version.
        versions: Each version by name.
        newest: When the newest vector of the active version was stored, seconds since the epoch; None if empty.
        queued: Items that were asked for and have no vector.
        parked: Items that could not be encoded.
    """

    active: str | None
    previous: str | None
    counts: Mapping[str, int]
    versions: Mapping[str, Version]
    newest: float | None
    queued: int
    parked: int


class RepresentationCenter(ABC):
    """Vectors by item and encoder version.  Safe to share between threads.

    Everything a store must do is an abstract method; what is the same for all is written here, once.
    """

    metrics: CenterMetrics

    def __init__(self) -> None:
        dropped = self.metrics.dropped_misses.inc
        self._misses = MissBuffer(self.enqueue, self.lease, dropped)

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, item_ids: Sequence[str], version: str | None = None, queue_misses: bool = True) -> Found:
        """The vectors of items, all of one version.

        A miss has no vector, only a mask.  It is queued for encoding, once, by a thread of this process: a read writes
        nothing.  Where the version is not there, every item is a miss that is not queued, and `vectors` is [n, 0].

        Args:
            item_ids: Up to some thousands at a time.
            version: Of the encoder; the active one where not given.
            queue_misses: Whether an item without a vector is queued.

        Raises:
            CenterError: an item id is not valid.
            CenterUnavailable: the store does not answer.
        """
        try:
            wanted, records = self._read(to_keys(item_ids), version)
        except VersionMissing:
            self.metrics.missing_versions.inc()
            nothing = np.zeros(len(item_ids), bool)
            return Found(version or "", np.zeros((len(item_ids), 0), np.float32), nothing, nothing)
        if version is not None:
            self._misses.used(version)
        found = wanted.records.decode(records, wanted.name)
        misses = []
        if not found.stored.all():
            misses = [item_id for item_id, stored in zip(item_ids, found.stored, strict=True) if not stored]
        self.metrics.hits.inc(len(item_ids) - len(misses))
        self.metrics.misses.inc(len(misses))
        if misses and queue_misses:
            self._misses.add(misses)
        return found

    def flush_misses(self) -> None:
        """Writes the misses of this process to the queue now."""
        self._misses.flush()

    def content_hashes(self, item_ids: Sequence[str], version: str) -> list[str | None]:
        """The hash of the content each item's vector was made from, or None where there is no vector."""
        wanted, records = self._read(to_keys(item_ids), version)
        return [wanted.records.content_hash(record) for record in records]

    # -- writing -------------------------------------------------------------------------------------------

    def put(
        self,
        version: str,
        item_ids: Sequence[str],
        content_hashes: Sequence[str],
        vectors: np.ndarray,
        modalities: np.ndarray,
        event_time: float | np.ndarray | None = None,
    ) -> int:
        """Stores vectors unless a newer one exists; their items leave the queue.

        Comparing and writing is one transaction of the store, so that an old event that comes again, or late, never
        replaces a newer one.

        Args:
            version: Must be in the Center.
            item_ids: [n], not empty, each at most 500 bytes.
            content_hashes: [n], as `snapshot.content_hash` makes them.
            vectors: Floats of length one, or as stored in a snapshot of the version's dtype; [n, d].
            modalities: [n]; 0 for an item that has no content, and so no vector.
            event_time: Time of the content in seconds since the epoch, one for all or [n]; now where not given.

        Returns:
            How many were stored.

        Raises:
            CenterError: the version is not there, or the vectors are not of its dimension.
            CenterUnavailable: the store does not answer; nothing or a part was stored, so put again.
        """
        wanted = self.version(version)
        times = np.broadcast_to(np.float64(time.time() if event_time is None else event_time), len(item_ids))
        keys = to_keys(item_ids)
        vectors = np.asarray(vectors)
        if vectors.shape != (len(keys), wanted.dimension):
            raise CenterError(
                f"vectors of version {version} are [items, {wanted.dimension}]; received {list(vectors.shape)} for "
                f"{len(keys)} items. Are they of another encoder?"
            )
        finite = np.isfinite(times).all() and (vectors.dtype.kind != "f" or np.isfinite(vectors).all())
        if not finite or len(content_hashes) != len(keys) or len(modalities) != len(keys):
            raise CenterError(
                f"each of {len(keys)} items has a content hash, modalities, a finite vector and a finite event time; "
                f"received {len(content_hashes)} hashes, {len(modalities)} modalities and values that are "
                f"{'finite' if finite else 'not finite'}. Mend them"
            )
        records = wanted.records.encode(content_hashes, vectors, modalities, times)
        stored = self._write_newer(wanted, keys, records)
        self.dequeue(item_ids)
        return stored

    def add_version(self, version: Version) -> Version:
        """Makes room for a version; a version that is there already is returned as it is.

        Raises:
            CenterError: it is there with another digest, dimension or dtype.
        """
        there = self._insert_version(replace(version, created_at=time.time()))
        same = (there.digest, there.dimension, there.dtype) == (version.digest, version.dimension, version.dtype)
        if not same:
            raise CenterError(
                f"version {version.name} is in the Center with digest {there.digest[:12] or 'unknown'} and vectors of "
                f"{there.dimension} {there.dtype}; what came has digest {version.digest[:12] or 'unknown'} and "
                f"{version.dimension} {version.dtype}. It is another encoder under the same name: give it a name of "
                "its own, or drop the old version"
            )
        return there

    def mark_ready(self, version: str) -> None:
        """Allows `version` to be promoted."""
        if not self._set_ready(version):
            self.version(version)  # raises, and lists what there is

    # -- versions ------------------------------------------------------------------------------------------

    def version(self, name: str) -> Version:
        """One version.

        Raises:
            CenterError: it is not there.
        """
        versions = self.versions()
        if name not in versions:
            listed = ", ".join(versions) or "no version at all"
            raise VersionMissing(
                f"encoder version {name} is not in the Center, which holds {listed}; load a snapshot of it first"
            )
        return versions[name]

    def promote(self, name: str) -> None:
        """Makes a version the active one, for every reader at once; the active one becomes the previous one.

        Raises:
            CenterError: it is not there, or its snapshot is not wholly loaded.
        """
        if not self.version(name).ready:
            raise CenterError(f"version {name} is not wholly loaded yet, so it cannot be promoted; load it again")
        if not self._activate(name):
            raise VersionMissing(f"version {name} was dropped while it was promoted; load it again")

    def rollback(self) -> str:
        """Goes back to the version that was active before, and returns its name.

        Raises:
            CenterError: there is none.
        """
        _, previous = self.active()
        if previous is None:
            raise CenterError("there is no previous version to go back to; `stats` shows what there is")
        self.promote(previous)
        return previous

    def retain(self, count: int) -> list[str]:
        """Drops all but the `count` newest versions.  The active and the previous one stay as well, and those that were
        read by name in the last ten minutes, as clients read the version of their ranker.

        Returns:
            What was dropped.
        """
        stay = {name for name in self.active() if name} | self.leased()
        newest_first = sorted(self.versions().values(), key=lambda version: -version.created_at)
        stay |= {version.name for version in newest_first[:count]}
        dropped = [version.name for version in newest_first if version.name not in stay]
        return [name for name in dropped if self._drop(name)]

    # -- what a store does ---------------------------------------------------------------------------------

    @abstractmethod
    def versions(self) -> dict[str, Version]:
        """Every version by name, oldest first."""

    @abstractmethod
    def active(self) -> tuple[str | None, str | None]:
        """(active version, previous version)."""

    @abstractmethod
    def stats(self) -> Stats:
        """What the Center holds."""

    @abstractmethod
    def enqueue(self, item_ids: Iterable[str]) -> int:
        """Queues items for encoding, each once however often it is asked for; returns how many were new.

        The queue holds `MAX_QUEUED` items; more are left out, and a later miss tries again.
        """

    @abstractmethod
    def queued(self, limit: int) -> list[str]:
        """Up to `limit` queued items, those first whose turn comes first."""

    @abstractmethod
    def claim(self, limit: int, now: float | None = None) -> list[str]:
        """Up to `limit` queued items whose turn it is.

        An item that is not dequeued gets its next turn after `retry_seconds(attempts)`, so that items of which nobody
        has the content do not hold up the others.  After `MAX_ATTEMPTS` turns it leaves the queue.
        """

    @abstractmethod
    def lease(self, version: str, seconds: float) -> None:
        """Says that a version is in use for so many seconds, so that `retain` keeps it."""

    @abstractmethod
    def leased(self) -> set[str]:
        """Versions in use."""

    @abstractmethod
    def dequeue(self, item_ids: Iterable[str]) -> None:
        """Takes items out of the queue."""

    @abstractmethod
    def park(self, item_id: str, reason: str) -> None:
        """Keeps an item that cannot be encoded, with the reason, and takes it out of the queue."""

    @abstractmethod
    def parked(self) -> dict[str, str]:
        """Parked items and their reasons."""

    def close(self) -> None:
        """Writes the misses that are left, and releases the store."""
        self._misses.close()
        self._close()

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _read(self, keys: Sequence[bytes], version: str | None) -> tuple[Version, list[bytes | None]]:
        """Records of `keys`, all of one version: the named one, or the one active at one moment.

        Raises:
            VersionMissing: it is not there.
        """

    @abstractmethod
    def _write_newer(self, version: Version, keys: Sequence[bytes], records: Sequence[bytes]) -> int:
        """Stores the records that are not older than what is there, in transactions; returns how many."""

    @abstractmethod
    def _insert_version(self, version: Version) -> Version:
        """Stores a version, unless there is one of its name; returns the one that is there."""

    @abstractmethod
    def _set_ready(self, name: str) -> bool:
        """Makes a version ready; returns whether it is there."""

    @abstractmethod
    def _activate(self, name: str) -> bool:
        """Makes a version the active one, and the active one the previous one; returns whether it is there."""

    @abstractmethod
    def _drop(self, name: str) -> bool:
        """Drops a version, unless it is gone, or active or the previous one by now; returns whether it was dropped."""

    def __enter__(self) -> RepresentationCenter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def to_keys(item_ids: Sequence[str]) -> list[bytes]:
    """Item ids as stores keep them.

    Raises:
        CenterError: one is empty, too long, or no valid Unicode.
    """
    try:
        keys = [item_id.encode() for item_id in item_ids]
    except (UnicodeEncodeError, AttributeError) as error:
        raise CenterError(f"an item id is text of valid Unicode: {error}") from error
    if keys and (max(map(len, keys)) > MAX_ID_BYTES or min(keys) < b"\x01"):
        wrong = next(key for key in keys if len(key) > MAX_ID_BYTES or key < b"\x01")
        raise CenterError(
            f"an item id has 1 to {MAX_ID_BYTES} bytes and does not begin with a NUL; received one of {len(wrong)} "
            f"({wrong[:40]!r}). Change it"
        )
    return keys


def retry_seconds(attempts: int) -> float:
    """How long an item whose content was not found waits for its next turn: a minute, then twice as long each time."""
    return 60.0 * float(2 ** (attempts - 1))


def open_center(address: str, create: bool = True) -> RepresentationCenter:
    """Opens the Center at `address`: `redis://HOST:PORT/DB`, or a folder.

    Raises:
        CenterError: the folder is not there and may not be created, or the store does not answer.
    """
    if address.startswith(("redis://", "rediss://", "unix://")):
        from serving.representation_center.redis_center import RedisCenter

        return RedisCenter(address)
    from serving.representation_center.lmdb_center import LmdbCenter

    return LmdbCenter(address, create)
