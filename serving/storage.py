"""Files on a local disk or on an object store: whatever fsspec has a file system for, such as `gs://` and `s3://`.

A path is a `UPath`: `pathlib.Path` itself for local files, and the same methods for the others.  Object stores have no
folders, no rename and no lock; the functions here do what the project needs of these on both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upath import UPath

LEASE_SECONDS = 120.0
_CHANGING = ("size", "ETag", "etag", "generation", "created", "mtime")
_LAST = "saved_model.pb"  # a server takes a folder for a model once this file is there


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which, and since when."""


def as_path(location: str | Path | UPath) -> UPath:
    """A location as a path; local ones become absolute.

    Example:
        >>> from serving.storage import as_path
        >>> as_path("memory://bucket/run") / "report.html"
        MemoryPath('/bucket/run/report.html', protocol='memory')
    """
    text = str(location)
    if "://" not in text:
        return UPath(Path(text).absolute())
    if text.startswith("file://"):
        return UPath(Path(text.removeprefix("file://")).absolute())
    return UPath(text, use_listings_cache=False)


def is_local(location: str | Path | UPath) -> bool:
    """Whether a location is on a disk of this machine."""
    return "://" not in str(location) or str(location).startswith("file://")


def to_local(path: Path | UPath) -> Path:
    """A local path as a `pathlib.Path`."""
    return Path(str(path))


def write_text(path: UPath, text: str) -> None:
    """Writes a file so that a reader sees the old or the new text, never a part."""
    if not is_local(path):
        path.write_bytes(text.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def create_text(path: UPath, text: str) -> bool:
    """Writes a file that must not be there yet; False where it is, however many try at the same time."""
    try:
        if is_local(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as handle:
                handle.write(text)
        else:
            path.fs.pipe_file(path.path, text.encode(), mode="create")
    except FileExistsError:
        return False
    except OSError as error:  # how S3 says so when two creations meet
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def find(folder: UPath) -> dict[str, dict[str, Any]]:
    """All files below a folder, in the order of their names: name relative to it → what the file system says of it."""
    if is_local(folder):
        top = to_local(folder)
        files = (Path(parent) / name for parent, _, names in os.walk(top, followlinks=True) for name in names)
        return {str(file.relative_to(top)): {"size": file.stat().st_size} for file in sorted(files)}
    start = folder.path.rstrip("/") + "/"
    found: dict[str, dict[str, Any]] = folder.fs.find(folder.path, detail=True)
    return {name.removeprefix(start): facts for name, facts in sorted(found.items()) if name.startswith(start)}


def facts(file: UPath) -> dict[str, str]:
    """What changes when a file does: size, and what the file system has of time, digest and version; empty where there
    is no such file."""
    try:
        found = file.fs.info(file.path)
    except FileNotFoundError:
        return {}
    return changing(found)


def changing(found: dict[str, Any]) -> dict[str, str]:
    """Of what a file system says of a file, that which changes with its contents."""
    return {key: str(found[key]) for key in _CHANGING if key in found}


def remove_tree(folder: UPath) -> None:
    """Removes a folder with all that is in it; does nothing where there is none."""
    if is_local(folder):
        shutil.rmtree(to_local(folder), ignore_errors=True)
    elif names := find(folder):
        folder.fs.rm([f"{folder.path.rstrip('/')}/{name}" for name in names])


def copy_tree(source: UPath, target: UPath) -> None:
    """Copies a folder, from any file system to any; `target` must not be there.

    On a local disk `target` is there as a whole or not at all, and files that are never changed are hard links where
    the disk has these.  On an object store the file that marks a SavedModel is copied last.
    """
    if is_local(source) and is_local(target):
        part = _new_part(target)
        shutil.copytree(to_local(source), part, copy_function=_link_or_copy)
        part.rename(to_local(target))
    elif is_local(target):
        part = _new_part(target)
        download(source, part)
        part.rename(to_local(target))
    elif is_local(source):
        upload(to_local(source), target)
    elif source.fs is target.fs:
        for name in _saved_model_last(find(source)):
            source.fs.copy(f"{source.path}/{name}", f"{target.path}/{name}")
    else:
        for name in _saved_model_last(find(source)):
            (target / name).write_bytes((source / name).read_bytes())


def _new_part(target: UPath) -> Path:
    part = to_local(target.with_name(f".part-{target.name}"))
    shutil.rmtree(part, ignore_errors=True)
    return part


def download(source: UPath, folder: Path) -> None:
    """Copies a folder of an object store into a local one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in find(source) if name and not name.endswith("/")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        source.fs.get([f"{source.path.rstrip('/')}/{name}" for name in names], [str(folder / name) for name in names])


@contextlib.contextmanager
def local_copy(folder: UPath) -> Iterator[Path]:
    """The folder itself where it is local, else a copy of it that is removed at the end."""
    if is_local(folder):
        yield to_local(folder)
        return
    with tempfile.TemporaryDirectory(prefix="mim-copy-") as copy:
        download(folder, Path(copy))
        yield Path(copy)


def upload(folder: Path, target: UPath) -> None:
    """Copies a local folder onto an object store."""
    names = list(find(UPath(folder)))
    for last in (False, True):
        if group := [name for name in names if name.endswith(_LAST) == last]:
            remote = [f"{target.path.rstrip('/')}/{name}" for name in group]
            target.fs.put([str(folder / name) for name in group], remote)


def _saved_model_last(names: Any) -> list[str]:
    return sorted(names, key=lambda name: name.endswith(_LAST))


def _link_or_copy(source: Any, target: Any) -> Any:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links, or the file is on another
        shutil.copy2(source, target)
    return target


@contextlib.contextmanager
def locked(folder: UPath, name: str = ".lock", wait: float = 600.0) -> Iterator[None]:
    """Holds a lock of a folder that one process has at a time, on whatever machine.

    On a local disk it ends with the process.  On an object store it is a lease that the holder renews: it ends
    `LEASE_SECONDS` after a process was killed, at once where the next process on the same machine sees that it is gone.

    Args:
        folder: Made where it is not there.
        name: Of the lock.
        wait: Seconds to wait for it.

    Raises:
        LockedError: another process held it all the time.
    """
    held = _flock(to_local(folder), name, wait) if is_local(folder) else _lease(folder, name, wait)
    with held:
        yield


def _me() -> str:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": int(time.time())})


@contextlib.contextmanager
def _flock(folder: Path, name: str, wait: float) -> Iterator[None]:
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
        handle.write(_me())
        handle.flush()
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile has the handle, too


def _locked_error(folder: str, text: str) -> LockedError:
    try:
        holder = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
        who = f"process {holder['process']} on {holder['host']}, since {since}"
    except (ValueError, KeyError, TypeError):
        who = "just started"
    return LockedError(f"another process writes to {folder} ({who})")


@contextlib.contextmanager
def _lease(folder: UPath, name: str, wait: float) -> Iterator[None]:
    """The holder is who created the lease of the largest number; the next one is created when this has ended."""
    token, deadline = uuid.uuid4().hex, time.monotonic() + wait
    while True:
        leases = {int(file.rsplit("-", 1)[1]): file for file in find(folder) if _is_lease(file, name)}
        newest = max(leases, default=0)
        if newest and not _has_ended(folder / leases[newest]):
            if time.monotonic() >= deadline:
                raise _locked_error(str(folder), _read(folder / leases[newest]))
            time.sleep(0.5)
            continue
        mine = folder / f"{name}-{newest + 1}"
        if create_text(mine, _lease_text(token)):
            for old in leases.values():
                with contextlib.suppress(OSError):
                    (folder / old).unlink()
            break
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(mine, token, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with contextlib.suppress(OSError):
            mine.unlink()


def _is_lease(file: str, name: str) -> bool:
    return file.startswith(f"{name}-") and file.removeprefix(f"{name}-").isdigit()


def _lease_text(token: str) -> str:
    return json.dumps({**json.loads(_me()), "token": token, "until": time.time() + LEASE_SECONDS})


def _read(path: UPath) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _has_ended(lease: UPath) -> bool:
    try:
        holder = json.loads(_read(lease))
        return holder["until"] < time.time() or (
            holder["host"] == socket.gethostname() and not _is_running(holder["process"])
        )
    except (ValueError, KeyError, TypeError):
        return not lease.exists()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _renew(lease: UPath, token: str, ended: threading.Event) -> None:
    while not ended.wait(LEASE_SECONDS / 4):
        with contextlib.suppress(OSError):
            lease.write_bytes(_lease_text(token).encode())
