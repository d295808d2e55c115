"""The Center in a folder: LMDB, memory-mapped, for many reader processes and one writer at a time.

FOLDER/state                 versions, which one is active, the queue, what is parked
FOLDER/versions/NAME.STAMP   the vectors of one version, in a file of their own: to drop it is to delete it

A version's file is opened once a process.  LMDB needs a local disk, not a network file system.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from serving.representation_center.center import (
    CenterError,
    CenterUnavailable,
    RepresentationCenter,
    Stats,
    Version,
)
from serving.representation_center.metrics import process_metrics

MAP_BYTES = 256 * 1024**3  # address space, not disk: a file is as large as what is in it
MAX_READERS = 1024
NEWEST = b"\x00"  # no item's id, and before all of them, so that sorted ids can be appended
VERSIONS, POINTERS, QUEUE, ORDER, PARKED = b"versions", b"pointers", b"queue", b"order", b"parked"
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
        self._folder, self._map_bytes = Path(folder), map_bytes
        if not create and not (self._folder / "state").is_dir():
            raise CenterError(f"{folder} holds no Representation Center; fill one with `mim center load`")
        self.metrics = process_metrics()
        self._opened: dict[Path, lmdb.Environment] = {}
        self._lock = threading.Lock()
        self._parsed: dict[bytes, Version] = {}
        self._state = self._open(self._folder / "state", databases=8)
        with self._told():
            self._tables = {name: self._state.open_db(name) for name in (VERSIONS, POINTERS, QUEUE, ORDER, PARKED)}

    def close(self) -> None:
        with self._lock:
            for path in self._opened:
                _release(path)
            self._opened.clear()

    # -- versions ------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, Version]:
        with self._told(), self._state.begin(self._tables[VERSIONS]) as read:
            found = [self._parse(value) for _, value in read.cursor()]
        return {version.name: version for version in sorted(found, key=lambda version: version.created_at)}

    def active(self) -> tuple[str | None, str | None]:
        with self._told(), self._state.begin(self._tables[POINTERS]) as read:
            return _text(read.get(ACTIVE)), _text(read.get(PREVIOUS))

    def stats(self) -> Stats:
        versions, (active, previous) = self.versions(), self.active()
        counts, newest = {}, None
        for name, version in versions.items():
            with self._told(), self._vectors(version).begin() as read:
                stamp = read.get(NEWEST)
                counts[name] = read.stat()["entries"] - (stamp is not None)
                if name == active and stamp is not None:
                    newest = float(stamp)
        with self._told(), self._state.begin() as read:
            queued, parked = (read.stat(self._tables[name])["entries"] for name in (QUEUE, PARKED))
        return Stats(active, previous, counts, versions, newest, queued, parked)

    def _save_version(self, version: Version) -> None:
        with self._told(), self._state.begin(self._tables[VERSIONS], write=True) as write:
            write.put(version.name.encode(), json.dumps(version.to_mapping()).encode())

    def _activate(self, name: str, previous: str | None) -> None:
        with self._told(), self._state.begin(self._tables[POINTERS], write=True) as write:
            write.put(ACTIVE, name.encode())
            if previous is not None:
                write.put(PREVIOUS, previous.encode())

    def _drop(self, name: str) -> None:
        path = self._path(self.version(name))
        with self._told(), self._state.begin(self._tables[VERSIONS], write=True) as write:
            write.delete(name.encode())
        with self._lock:
            if path in self._opened:
                del self._opened[path]
                _release(path)
        shutil.rmtree(path, ignore_errors=True)  # who reads it still has it mapped

    # -- vectors -------------------------------------------------------------------------------------------

    def _read(self, keys: Sequence[bytes], version: str | None) -> tuple[Version, list[bytes | None]]:
        with self._told():
            with self._state.begin() as read:
                name = version.encode() if version else read.get(ACTIVE, db=self._tables[POINTERS])
                if name is None:
                    raise CenterError("no version is active yet; load a snapshot, then promote its version")
                value = read.get(name, db=self._tables[VERSIONS])
            if value is None:
                self.version(name.decode())  # raises, and lists what there is
                raise CenterError(f"version {name.decode()} was dropped while it was asked for; ask again")
            wanted = self._parse(value)
            with self._vectors(wanted).begin() as read, read.cursor() as cursor:
                found: list[tuple[bytes, bytes]] = cursor.getmulti(keys)
        if len(found) == len(keys):
            return wanted, [record for _, record in found]
        records = dict(found)
        return wanted, [records.get(key) for key in keys]

    def _write(self, version: Version, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        rows = sorted(dict(zip(keys, records, strict=True)).items())
        with self._told(), self._vectors(version).begin(write=True) as write, write.cursor() as cursor:
            write.put(NEWEST, repr(time.time()).encode())
            if rows:
                cursor.last()
                cursor.putmulti(rows, append=cursor.key() < rows[0][0])  # appended pages are full ones

    # -- the queue -----------------------------------------------------------------------------------------

    def enqueue(self, item_ids: Iterable[str]) -> int:
        keys = [item_id.encode() for item_id in item_ids]
        with self._told():
            with self._state.begin(self._tables[QUEUE]) as read, read.cursor() as cursor:
                there = set(cursor.getmulti(keys, values=False))
            if len(there) == len(keys):  # nothing to write, so no writer is waited for
                return 0
            with self._state.begin(write=True) as write:
                last = write.cursor(self._tables[ORDER])
                ticket = int.from_bytes(last.key(), "big") if last.last() else 0
                new = 0
                for key in keys:
                    ticket += 1
                    number = ticket.to_bytes(8, "big")
                    if write.put(key, number, db=self._tables[QUEUE], overwrite=False):
                        write.put(number, key, db=self._tables[ORDER])
                        new += 1
        return new

    def queued(self, limit: int) -> list[str]:
        with self._told(), self._state.begin(self._tables[ORDER]) as read:
            return [key.decode() for (_, key), _ in zip(read.cursor(), range(limit), strict=False)]

    def dequeue(self, item_ids: Iterable[str]) -> None:
        keys = [item_id.encode() for item_id in item_ids]
        with self._told():
            with self._state.begin(self._tables[QUEUE]) as read, read.cursor() as cursor:
                there = cursor.getmulti(keys)
            if not there:
                return
            with self._state.begin(write=True) as write:
                for key, _ in there:
                    number = write.pop(key, db=self._tables[QUEUE])
                    if number is not None:
                        write.delete(number, db=self._tables[ORDER])

    def park(self, item_id: str, reason: str) -> None:
        with self._told(), self._state.begin(self._tables[PARKED], write=True) as write:
            write.put(item_id.encode(), reason.encode())
        self.dequeue([item_id])

    def parked(self) -> dict[str, str]:
        with self._told(), self._state.begin(self._tables[PARKED]) as read:
            return {key.decode(): value.decode() for key, value in read.cursor()}

    # -- files ---------------------------------------------------------------------------------------------

    def _parse(self, value: bytes) -> Version:
        if value not in self._parsed:
            self._parsed[value] = Version(**json.loads(value))
        return self._parsed[value]

    def _path(self, version: Version) -> Path:
        return self._folder / "versions" / f"{version.name}.{int(version.created_at * 1e6)}"

    def _vectors(self, version: Version) -> lmdb.Environment:
        return self._open(self._path(version))

    def _open(self, path: Path, databases: int = 0) -> lmdb.Environment:
        found = self._opened.get(path)
        if found is None:
            with self._lock, self._told():
                if path not in self._opened:
                    self._opened[path] = _acquire(path, self._map_bytes, databases)
                found = self._opened[path]
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
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


# LMDB allows one opening of a file in a process, so those who use the same folder share it.
_shared: dict[tuple[int, str], tuple[lmdb.Environment, int]] = {}
_shared_lock = threading.Lock()


def _acquire(path: Path, map_bytes: int, databases: int) -> lmdb.Environment:
    key = (os.getpid(), str(path.resolve()))
    with _shared_lock:
        environment, users = _shared.get(key, (None, 0))
        if environment is None:
            path.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(path), map_size=map_bytes, max_dbs=databases, max_readers=MAX_READERS, readahead=False
            )
            environment.reader_check()  # forgets readers that died
        _shared[key] = (environment, users + 1)
        return environment


def _release(path: Path) -> None:
    key = (os.getpid(), str(path.resolve()))
    with _shared_lock:
        environment, users = _shared.pop(key, (None, 0))
        if environment is None:
            return
        if users > 1:
            _shared[key] = (environment, users - 1)
        else:
            environment.close()


def _text(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
