"""Reads pictures by the path that an item gives: files, or members of an archive beside the tables."""

from __future__ import annotations

import functools
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from components.contract.files import escape_glob, match_files, resolve
from components.contract.tables import unreadable
from serving.representation_center.images import MAX_BYTES
from serving.storage import SCHEMES, as_path, is_local

ARCHIVES = ("images.zip", "images.tar")  # a compressed tar cannot be read from the middle


def find_archives(data: str) -> list[FileMetadata]:
    """The archives of pictures in folder `data`."""
    return match_files([FileSystems.join(escape_glob(data), name) for name in ARCHIVES])


class ImageFiles:
    """Reads pictures of the folder `data`, from its archives where it has any.  Safe among threads.

    A path is absolute, or relative to `data`; within an archive it is a member's name.  Each worker reads the
    archives' own lists once, and then only what it needs.

    Args:
        data: The folder of the tables.
        folder: The one that paths are relative to, itself relative to `data`; empty for `data`.

    Raises:
        ContractError: an archive cannot be read.
    """

    def __init__(self, data: str, folder: str = "") -> None:
        self._data = resolve(data, folder)
        self._members: dict[str, Callable[[], bytes]] = {}
        self._without_credentials: set[str] = set()  # schemes of stores
        for path in [meta.path for meta in find_archives(data)]:
            handle = FileSystems.open(path, compression_type="uncompressed")
            try:
                found = _zip_members(handle) if path.endswith(".zip") else _tar_members(handle)
            # The last two: encryption, and compression that zipfile does not know.
            except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError, NotImplementedError) as error:
                raise unreadable(path, error) from error
            self._members.update(found)

    def read(self, path: str) -> bytes:
        """The picture's bytes, at most `MAX_BYTES` and one more.

        Raises:
            OSError: there is none of that path, or it is no regular file, or a URL.
        """
        member = self._members.get(path.removeprefix("./"))
        if member is not None:
            return member()
        location = resolve(self._data, path)
        try:
            if is_local(location) and not Path(location).is_file():
                raise FileNotFoundError(f"{location} is not a file")
            scheme = location.partition("://")[0] if not is_local(location) else ""
            if scheme and scheme not in SCHEMES:
                raise OSError(f"{location} is in no store that is read: {', '.join(SCHEMES)}")
            if scheme in self._without_credentials:
                raise OSError(f"{location} cannot be read: no credentials for {scheme}://")
            with as_path(location).open("rb") as handle:
                content: bytes = handle.read(MAX_BYTES + 1)
        except OSError:
            raise
        except Exception as error:  # clients of stores raise whatever they like
            if "Credentials" in type(error).__name__:  # asked once, since it takes them seconds to find none
                self._without_credentials.add(scheme)
            raise OSError(f"{location} cannot be read: {error}") from error
        return content


def _zip_members(handle: Any) -> dict[str, Callable[[], bytes]]:
    archive, lock = zipfile.ZipFile(handle), threading.Lock()

    def read(name: str) -> bytes:
        with lock:
            try:
                with archive.open(name) as member:
                    return member.read(MAX_BYTES + 1)
            # The last two: encryption, and compression that zipfile does not know.
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                raise OSError(f"{name} cannot be read from the archive: {error}") from error

    return {
        info.filename.removeprefix("./"): functools.partial(read, info.filename)
        for info in archive.infolist()
        if not info.is_dir()
    }


def _tar_members(handle: Any) -> dict[str, Callable[[], bytes]]:
    lock = threading.Lock()

    def read(place: tuple[int, int]) -> bytes:
        with lock:
            handle.seek(place[0])
            content: bytes = handle.read(min(place[1], MAX_BYTES + 1))
        return content

    with tarfile.open(fileobj=handle, mode="r:") as archive:
        places = {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    return {name.removeprefix("./"): functools.partial(read, place) for name, place in places.items()}
