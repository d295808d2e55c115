"""Locks of folders, on a local disk and on object stores."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from upath import UPath

from serving.storage import create_text, is_local, to_local

LEASE_SECONDS = 120.0
log = logging.getLogger("mim")
Check = Callable[[], None]


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which, and since when."""


@contextlib.contextmanager
def locked(folder: UPath, name: str = ".lock", wait: float = 600.0) -> Iterator[Check]:
    """Holds a lock of a folder that one process has at a time, on whatever machine.

    On a local disk it ends with the process.  On an object store it is a lease that the holder renews: it ends
    `LEASE_SECONDS` after a process was killed, at once where the next process on the same machine sees that it is gone.

    Args:
        folder: Made where it is not there.
        name: Of the lock.
        wait: Seconds to wait for it.

    Yields:
        A function to call before what is written last: it raises `LockedError` where the lease was lost, since it could
        not be renewed in time.

    Raises:
        LockedError: another process held it all the time.
    """
    held = _flock(to_local(folder), name, wait) if is_local(folder) else _lease(folder, name, wait)
    with held as check:
        yield check


@contextlib.contextmanager
def _flock(folder: Path, name: str, wait: float) -> Iterator[Check]:
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with (folder / name).open("a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    handle.seek(0)
                    raise _locked_error(str(folder), handle.read()) from None
                time.sleep(0.02)
        handle.truncate(0)
        handle.write(json.dumps(_me()))
        handle.flush()
        try:
            yield lambda: None
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile has the handle, too


def _me() -> dict[str, str | int]:
    return {"host": _host(), "process": os.getpid(), "since": int(time.time())}


@functools.cache
def _host() -> str:
    """The name of this machine since it was started, and of the container: process numbers are one's own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8], os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _locked_error(folder: str, text: str) -> LockedError:
    try:
        holder = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
        who = f"process {holder['process']} on {holder['host'].split()[0]}, since {since}"
    except (ValueError, KeyError, TypeError, AttributeError):
        who = "just started"
    return LockedError(f"another process writes to {folder} ({who})")


@contextlib.contextmanager
def _lease(folder: UPath, name: str, wait: float) -> Iterator[Check]:
    lease = _Lease(folder, name)
    deadline = time.monotonic() + wait
    while (holder := lease.take()) is not None:
        if time.monotonic() >= deadline:
            raise _locked_error(str(folder), holder)
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
    try:
        yield lease.check
    finally:
        lease.end()


class _Lease:
    """Numbered files: the holder is who created the one of the largest number; the next is created when that has ended.

    The file of an ended lease stays until the next is created, so that a number is never used twice.
    """

    def __init__(self, folder: UPath, name: str) -> None:
        self._folder, self._name = folder, name
        self._token, self._number = uuid.uuid4().hex, 0
        self._renewed, self._ended, self._lost = 0.0, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> str | None:
        """None where this process holds the lease now; else what the holder wrote."""
        newest = max(self._numbers(), default=0)
        text = _read(self._file(newest)) if newest else ""
        if newest and not _has_ended(text):
            return text or "{}"
        number, self._renewed = newest + 1, time.monotonic()
        if not create_text(self._file(number), self._text()):
            return "{}"
        numbers = self._numbers()
        if max(numbers) > number or self._token not in _read(self._file(number)):
            self._file(number).unlink(missing_ok=True)  # the list of before was old
            return "{}"
        for old in numbers - {number}:
            self._file(old).unlink(missing_ok=True)
        self._number = number
        self._thread.start()
        return None

    def check(self) -> None:
        """Raises where another process may hold the lease by now."""
        if self._lost.is_set() or time.monotonic() - self._renewed > LEASE_SECONDS:
            raise LockedError(
                f"the lease of {self._folder} was not renewed for {LEASE_SECONDS:.0f} s: another process may write "
                "there now, so nothing more is written. Look at the connection, and run again"
            )

    def end(self) -> None:
        """Lets the next process have it."""
        self._ended.set()
        self._thread.join()
        if self._lost.is_set():
            return
        try:
            self._file(self._number).write_bytes(json.dumps({**_me(), "until": 0}).encode())
        except Exception as error:
            log.warning("the lease of %s ends in %.0f s by itself: %s", self._folder, LEASE_SECONDS, error)

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 6):
            try:
                now, mine = time.monotonic(), self._file(self._number)
                if max(self._numbers(), default=0) != self._number or self._token not in _read(mine):
                    self._lost.set()
                    return
                mine.write_bytes(self._text().encode())
                self._renewed = now
            except Exception as error:  # of any client of a store; asked again
                log.warning("the lease of %s was not renewed: %s", self._folder, error)

    def _file(self, number: int) -> UPath:
        return self._folder / f"{self._name}-{number}"

    def _text(self) -> str:
        return json.dumps({**_me(), "token": self._token, "until": time.time() + LEASE_SECONDS})

    def _numbers(self) -> set[int]:
        try:
            names = [found.rsplit("/", 1)[-1] for found in self._folder.fs.ls(self._folder.path, detail=False)]
        except FileNotFoundError:
            return set()
        numbers = [one.removeprefix(f"{self._name}-") for one in names if one.startswith(f"{self._name}-")]
        return {int(number) for number in numbers if number.isdigit()}


def _read(path: UPath) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _has_ended(text: str) -> bool:
    """Whether what a holder wrote says so; a file that cannot be understood has not."""
    try:
        holder = json.loads(text)
        gone = holder["host"] == _host() and not _is_running(holder["process"])
        return bool(holder["until"] < time.time() or gone)
    except (ValueError, KeyError, TypeError):
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
