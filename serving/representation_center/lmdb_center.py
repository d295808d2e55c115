"""The Center in a folder: LMDB, memory-mapped, for many reader processes and one writer at a time.

FOLDER/state                 versions, which one is active, the queue, what is parked
FOLDER/versions/NAME.STAMP   the vectors of one version, in a file of their own: to drop it is to delete it

A version's file is opened once a process.  LMDB needs a local disk, not a network file system.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb

from serving.representation_center.center import (
    MAX_ATTEMPTS,
    MAX_QUEUED,
    CenterError,
    CenterUnavailable,
    RepresentationCenter,
    Stats,
    Version,
    VersionMissing,
    retry_seconds,
    to_keys,
)
from serving.representation_center.metrics import process_metrics

MAP_BYTES = 256 * 1024**3  # address space, not disk: a file is as large as what is in it
MAX_READERS = 1024
NEWEST = b"\x00"  # no item's id, and before all of them, so that sorted ids can be appended
VERSIONS, POINTERS, QUEUE, ORDER, PARKED, LEASES = (
    *(b"versions", b"pointers"),  # facts of each version; which one is active
    *(b"queue", b"order"),  # item → attempts and turn; turn → item
    *(b"parked", b"leases"),  # item → reason; version → end
)
TABLES, DATABASES = (VERSIONS, POINTERS, QUEUE, ORDER, PARKED, LEASES), 8
ACTIVE, PREVIOUS = b"active", b"previous"


class LmdbCenter(RepresentationCenter):
    """A Center in a folder.

    Args:
        folder: Where it lies.
        create: Whether to make it where it is not there.
        map_bytes: How large the file of one version may grow.

    Raises:
        CenterError: the folder holds no Center and none may be made.
    """

    def __init__(self, folder: str | Path, create: bool = True, map_bytes: int = MAP_BYTES) -> None:
        self._folder, self._map_bytes = Path(folder).resolve(), map_bytes
        if not create and not (self._folder / "state").is_dir():
            raise CenterError(f"{folder} holds no Representation Center; fill one with `mim center load`")
        self.metrics = process_metrics()
        super().__init__()
        self._parsed: dict[bytes, Version] = {}
        self._closed = False
        self._open_state()

    def _open_state(self) -> None:
        """Opens what is this process' own: LMDB's environments do not survive a fork."""
        self._process = os.getpid()
        self._kept: dict[Path, _Shared] = {}  # versions, open until they are dropped
        with self._translated():
            held = _hold(self._folder / "state", self._map_bytes, DATABASES, create=True)
            assert held is not None
            self._held = held
            self._opened_tables = {name: held.environment.open_db(name) for name in TABLES}

    def _check_process(self) -> None:
        if self._closed:
            raise CenterError(f"the Center in {self._folder} is closed; open it again")
        if self._process != os.getpid():
            self._open_state()

    @contextmanager
    def _begin(self, table: bytes = b"", write: bool = False) -> Iterator[Any]:
        """A transaction of the state, which stays open meanwhile."""
        self._check_process()
        held = self._held
        held.hold()
        try:
            with _gate, held.environment.begin(self._opened_tables.get(table), write=write) as transaction:
                yield transaction
        finally:
            held.release()

    @property
    def _tables(self) -> dict[bytes, Any]:
        self._check_process()
        return self._opened_tables

    def _close(self) -> None:
        if not self._closed and self._process == os.getpid():
            for held in (self._held, *self._kept.values()):
                held.release()
        self._closed = True

    # -- versions ------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, Version]:
        with self._translated(), self._begin(VERSIONS) as read:
            found = [self._parse(value) for _, value in read.cursor()]
        return {version.name: version for version in sorted(found, key=lambda version: version.created_at)}

    def active(self) -> tuple[str | None, str | None]:
        with self._translated(), self._begin(POINTERS) as read:
            return _text(read.get(ACTIVE)), _text(read.get(PREVIOUS))

    def stats(self) -> Stats:
        versions, (active, previous) = self.versions(), self.active()
        counts, newest = {}, None
        for name, version in versions.items():
            try:
                with self._translated(), self._vectors(version) as environment, environment.begin() as read:
                    stamp = read.get(NEWEST)
                    counts[name] = read.stat()["entries"] - (stamp is not None)
                    if name == active and stamp is not None:
                        newest = float(stamp)
            except VersionMissing:  # dropped meanwhile
                counts[name] = 0
        with self._translated(), self._begin() as read:
            queued, parked = (read.stat(self._tables[name])["entries"] for name in (QUEUE, PARKED))
        return Stats(active, previous, counts, versions, newest, queued, parked)

    def _insert_version(self, version: Version) -> Version:
        key = version.name.encode()
        with self._translated():
            self._path(version).mkdir(parents=True, exist_ok=True)  # here alone: reading makes nothing
            with self._begin(VERSIONS, write=True) as write:
                value = write.get(key)
                if value is None:
                    write.put(key, json.dumps(version.to_mapping()).encode())
                    return version
            there = self._parse(value)
            if self._path(there) != self._path(version):
                self._path(version).rmdir()
            return there

    def _set_ready(self, name: str) -> bool:
        with self._translated(), self._begin(VERSIONS, write=True) as write:
            value = write.get(name.encode())
            if value is None:
                return False
            write.put(name.encode(), json.dumps(replace(self._parse(value), ready=True).to_mapping()).encode())
            return True

    def _activate(self, name: str) -> bool:
        with self._translated(), self._begin(write=True) as write:
            pointers = self._tables[POINTERS]
            if write.get(name.encode(), db=self._tables[VERSIONS]) is None:
                return False
            active = write.get(ACTIVE, db=pointers)
            if active != name.encode():
                write.put(ACTIVE, name.encode(), db=pointers)
                if active is not None:
                    write.put(PREVIOUS, active, db=pointers)
            return True

    def _drop(self, name: str) -> bool:
        version = self.versions().get(name)
        if version is None:
            return False  # dropped by somebody else
        path = self._path(version)
        with self._translated(), self._begin(write=True) as write:
            pointers = self._tables[POINTERS]
            if name.encode() in (write.get(ACTIVE, db=pointers), write.get(PREVIOUS, db=pointers)):
                return False  # promoted meanwhile
            write.delete(name.encode(), db=self._tables[VERSIONS])
            write.delete(name.encode(), db=self._tables[LEASES])
        self._let_go(path)
        shutil.rmtree(path, ignore_errors=True)  # who reads it still has it mapped
        return True

    def _let_go(self, path: Path) -> None:
        kept = self._kept.pop(path, None)
        if kept is not None:
            kept.release()

    def lease(self, version: str, seconds: float) -> None:
        with self._translated(), self._begin(LEASES, write=True) as write:
            write.put(version.encode(), repr(time.time() + seconds).encode())

    def leased(self) -> set[str]:
        with self._translated(), self._begin(LEASES) as read:
            return {key.decode() for key, value in read.cursor() if float(value) > time.time()}

    # -- vectors -------------------------------------------------------------------------------------------

    def _read(self, keys: Sequence[bytes], version: str | None) -> tuple[Version, list[bytes | None]]:
        with self._translated():
            with self._begin() as read:
                name = version.encode() if version else read.get(ACTIVE, db=self._tables[POINTERS])
                if name is None:
                    raise VersionMissing("no version is active yet; load a snapshot, then promote its version")
                value = read.get(name, db=self._tables[VERSIONS])
            if value is None:
                self.version(name.decode())  # raises, and lists what there is
                raise VersionMissing(f"version {name.decode()} was dropped while it was asked for; ask again")
            wanted = self._parse(value)
            with self._vectors(wanted) as environment, environment.begin() as read, read.cursor() as cursor:
                found: list[tuple[bytes, bytes]] = cursor.getmulti(keys)
        if len(found) == len(keys):
            return wanted, [record for _, record in found]
        records = dict(found)
        return wanted, [records.get(key) for key in keys]

    def _write_newer(self, version: Version, keys: Sequence[bytes], records: Sequence[bytes]) -> int:
        of, newest = version.records, {}  # type: Any, dict[bytes, bytes]
        for key, record in zip(keys, records, strict=True):
            if key not in newest or of.event_time(newest[key]) <= of.event_time(record):
                newest[key] = record
        with (
            self._translated(),
            self._vectors(version) as environment,
            environment.begin(write=True) as write,
            write.cursor() as cursor,
        ):
            there = dict(cursor.getmulti(sorted(newest)))
            rows = [
                (key, record)
                for key, record in sorted(newest.items())
                if key not in there or of.event_time(there[key]) <= of.event_time(record)
            ]
            write.put(NEWEST, repr(time.time()).encode())
            if rows:
                cursor.last()
                cursor.putmulti(rows, append=cursor.key() < rows[0][0])  # appended pages are full ones
        if self.version(version.name).created_at != version.created_at:
            raise VersionMissing(f"version {version.name} was dropped while it was written; load it again")
        return len(rows)

    # -- the queue -----------------------------------------------------------------------------------------

    def enqueue(self, item_ids: Iterable[str]) -> int:
        keys = to_keys(list(item_ids))
        with self._translated():
            with self._begin(QUEUE) as read, read.cursor() as cursor:
                there = set(cursor.getmulti(keys, values=False))
            if len(there) == len(keys):  # nothing to write, so no writer is waited for
                return 0
            with self._begin(write=True) as write:
                room = MAX_QUEUED - write.stat(self._tables[QUEUE])["entries"]
                new = [key for key in dict.fromkeys(keys) if key not in there][: max(0, room)]
                for key in new:
                    self._set_turn(write, key, time.time(), 0)
        return len(new)

    def _set_turn(self, write: lmdb.Transaction, key: bytes, at: float, attempts: int) -> None:
        """Puts an item in the order: by its time, then as it came."""
        for number in itertools.count():
            turn = int(at * 1e6).to_bytes(8, "big") + number.to_bytes(4, "big")
            if write.put(turn, key, db=self._tables[ORDER], overwrite=False):
                write.put(key, bytes([attempts]) + turn, db=self._tables[QUEUE])
                return

    def queued(self, limit: int) -> list[str]:
        with self._translated(), self._begin(ORDER) as read:
            return [key.decode() for (_, key), _ in zip(read.cursor(), range(limit), strict=False)]

    def claim(self, limit: int, now: float | None = None) -> list[str]:
        now = time.time() if now is None else now
        with self._translated():
            with self._begin(ORDER) as read:
                first = next(iter(read.cursor()), None)
            if first is None or int.from_bytes(first[0][:8], "big") > now * 1e6:
                return []
            with self._begin(write=True) as write:
                cursor = write.cursor(self._tables[ORDER])
                due = [
                    (bytes(turn), bytes(key))
                    for (turn, key), _ in zip(cursor, range(limit), strict=False)
                    if int.from_bytes(turn[:8], "big") <= now * 1e6
                ]
                for turn, key in due:
                    write.delete(turn, db=self._tables[ORDER])
                    attempts = (write.get(key, db=self._tables[QUEUE]) or b"\0")[0] + 1
                    if attempts < MAX_ATTEMPTS:
                        self._set_turn(write, key, now + retry_seconds(attempts), attempts)
                    else:
                        write.delete(key, db=self._tables[QUEUE])
        return [key.decode() for _, key in due]

    def dequeue(self, item_ids: Iterable[str]) -> None:
        keys = [item_id.encode() for item_id in item_ids]
        with self._translated():
            with self._begin(QUEUE) as read, read.cursor() as cursor:
                there = cursor.getmulti(keys)
            if not there:
                return
            with self._begin(write=True) as write:
                for key, _ in there:
                    turn = write.pop(key, db=self._tables[QUEUE])
                    if turn is not None:
                        write.delete(turn[1:], db=self._tables[ORDER])

    def park(self, item_id: str, reason: str) -> None:
        with self._translated(), self._begin(PARKED, write=True) as write:
            write.put(to_keys([item_id])[0], reason.encode())
        self.dequeue([item_id])

    def parked(self) -> dict[str, str]:
        with self._translated(), self._begin(PARKED) as read:
            return {key.decode(): value.decode() for key, value in read.cursor()}

    # -- files ---------------------------------------------------------------------------------------------

    def _parse(self, value: bytes) -> Version:
        if value not in self._parsed:
            self._parsed[value] = Version(**json.loads(value))
        return self._parsed[value]

    def _path(self, version: Version) -> Path:
        return self._folder / "versions" / f"{version.name}.{int(version.created_at * 1e6)}"

    @contextmanager
    def _vectors(self, version: Version) -> Iterator[lmdb.Environment]:
        """The environment of a version's vectors, which stays open for as long as it is used.

        Raises:
            VersionMissing: it was dropped.
        """
        path = self._path(version)
        held = _hold(path, self._map_bytes, 0, create=False)
        if held is None:
            raise VersionMissing(f"version {version.name} was dropped while it was used; ask again")
        if path not in self._kept:
            for dropped in [one for one in list(self._kept) if not one.is_dir()]:  # by another process
                self._let_go(dropped)
            kept = _hold(path, self._map_bytes, 0, create=False)
            if kept is not None and self._kept.setdefault(path, kept) is not kept:
                kept.release()
        try:
            with _gate:
                yield held.environment
        finally:
            held.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns LMDB's errors into the Center's."""
        try:
            yield
        except lmdb.MapFullError as error:
            raise CenterError(
                f"the Center in {self._folder} is full: a version may take {self._map_bytes / 1024**3:.0f} GiB. "
                "Open it with a larger map_bytes, or keep it in Redis"
            ) from error
        except lmdb.ReadersFullError as error:
            raise CenterError(
                f"more than {MAX_READERS} threads read the Center in {self._folder} at once; read from fewer"
            ) from error
        except (lmdb.Error, OSError) as error:
            raise CenterUnavailable(f"the Center in {self._folder} cannot be used: {error}") from error


class _Shared:
    """An environment, and how many use it; LMDB allows one opening of a file in a process."""

    def __init__(self, key: tuple[int, str], environment: lmdb.Environment) -> None:
        self._key, self.environment, self.users = key, environment, 0

    def hold(self) -> None:
        """One user more.

        Raises:
            CenterError: it is closed.
        """
        with _lock:
            if not self.users:
                raise CenterError("the Center is closed; open it again")
            self.users += 1

    def release(self) -> None:
        """One user less; the last one closes it, so that nothing is unmapped under a reader."""
        with _lock:
            self.users -= 1
            if not self.users:
                _environments.pop(self._key, None)
                self.environment.close()


_lock = threading.Lock()
_environments: dict[tuple[int, str], _Shared] = {}


class _Gate:
    """Lets transactions in, and forks when there is none: a lock of LMDB that another thread holds at a fork would be
    held in the child for good."""

    def __init__(self) -> None:
        self._changed, self._inside, self._forks = threading.Condition(threading.Lock()), 0, False

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def close(self) -> None:
        """Waits until nobody is inside, and keeps all out."""
        self._changed.acquire()
        self._forks = True
        while self._inside:
            self._changed.wait()

    def open(self) -> None:
        """Lets them in again."""
        self._forks = False
        self._changed.notify_all()
        self._changed.release()


_gate = _Gate()


def _before_fork() -> None:
    _gate.close()
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()
    _gate.open()


def _after_fork_in_child() -> None:
    """Lets go of the environments, which are the parent's."""
    global _lock, _gate
    _lock, _gate = threading.Lock(), _Gate()
    for shared in _environments.values():
        shared.environment.close()
    _environments.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _hold(path: Path, map_bytes: int, databases: int, create: bool) -> _Shared | None:
    """The environment in a folder, until `release`; None where it is not there and may not be made."""
    key = (os.getpid(), str(path))
    with _lock:
        shared = _environments.get(key)
        if shared is None:
            if create:
                path.mkdir(parents=True, exist_ok=True)
            elif not path.is_dir():
                return None
            environment = lmdb.open(
                str(path), map_size=map_bytes, max_dbs=databases, max_readers=MAX_READERS, readahead=False
            )
            environment.reader_check()  # forgets readers that died
            shared = _environments[key] = _Shared(key, environment)
        shared.users += 1
        return shared


def _text(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
