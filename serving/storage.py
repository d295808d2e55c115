"""Files on a local disk or on an object store: whatever fsspec has a file system for, such as `gs://` and `s3://`.

A path is a `UPath`: `pathlib.Path` itself for local files, and the same methods for the others.  Object stores have no
folders and no rename; the functions here do what the project needs of these on both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upath import UPath

SCHEMES = ("gs", "s3", "abfs", "az", "memory")
_CHANGING = ("size", "ETag", "etag", "generation", "created", "mtime")
_GLOB = "*?["  # which fsspec takes as patterns
_LAST = "saved_model.pb"  # a server takes a folder for a model once this file is there


def as_path(location: str | Path | UPath) -> UPath:
    """A location as a path; local ones become absolute.

    Raises:
        ValueError: it is neither a local path nor an address of an object store.

    Example:
        >>> from serving.storage import as_path
        >>> as_path("memory://bucket/run") / "report.html"
        MemoryPath('/bucket/run/report.html', protocol='memory')
    """
    text = str(location)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
        if not text.startswith("/"):
            raise ValueError(f"an address of a local file is file:///PATH; received {location}. Give the path alone")
    if "://" not in text:
        if re.match(r"[a-z0-9]+:/[^/]", text):
            raise ValueError(f"an address has two slashes, as in s3://bucket/run; received {location}")
        return UPath(Path(text).absolute())
    scheme, key = text.split("://", 1)
    if set(key) & set(_GLOB):
        raise ValueError(f"a location on an object store has none of {_GLOB}; received {location}. Give another name")
    options = location.storage_options if isinstance(location, UPath) else {}
    known = {"gcs": "gs", "s3a": "s3"}.get(scheme, scheme)
    return UPath(f"{known}://{key.rstrip('/')}", **{**options, "use_listings_cache": False})


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


def kind(path: UPath) -> str | None:
    """`file`, `directory`, or None where there is nothing.  A store that cannot be asked is an error, unlike with
    `path.is_file()`, which takes it as nothing."""
    if is_local(path):
        return "file" if path.is_file() else "directory" if path.is_dir() else None
    try:
        return str(path.fs.info(path.path)["type"])
    except FileNotFoundError:
        return None


def find(folder: UPath) -> dict[str, dict[str, Any]]:
    """All files below a folder, in the order of their names: name relative to it → what the file system says of it."""
    if is_local(folder):
        top = to_local(folder)
        files = (Path(parent) / name for parent, _, names in os.walk(top, followlinks=True) for name in names)
        return {str(file.relative_to(top)): {"size": file.stat().st_size} for file in sorted(files)}
    start = folder.path.rstrip("/") + "/"
    found: dict[str, dict[str, Any]] = folder.fs.find(folder.path, detail=True)
    own = (pair for pair in sorted(found.items()) if pair[0].startswith(start) and not pair[0].endswith("/"))
    return {name.removeprefix(start): facts for name, facts in own}


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
            source.fs.cp_file(f"{source.path}/{name}", f"{target.path}/{name}")
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
    names = list(find(source))
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
        os.link(os.path.realpath(source), target)
    except OSError:  # the file system has no links, or the file is on another
        shutil.copy2(source, target)
    return target
