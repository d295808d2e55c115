"""Artifacts on any file system.

An executor whose `Do` is decorated with `on_local_disk` finds its inputs on a local disk and writes its outputs there;
where the artifacts are on an object store, they are copied before and after.  TFX's own components are given the same
in `components.standard`.  With a distributed Beam runner nothing is copied, since the workers read and write the
artifacts themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.io import filesystem, filesystem_registry
from upath import UPath

from components.engine import runs_here
from serving.storage import SCHEMES, as_path, changing, download, find, is_local, remove_tree, upload

Artifacts = dict[str, list[types.Artifact]]


class StagingArea:
    """Local copies of remote folders.  A copy is made again when the remote files changed.

    Args:
        folder: Of the copies.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._seen: dict[str, str] = {}
        self._origins: dict[str, str] = {}

    def fetch(self, uri: str) -> str:
        """The local copy of a remote folder."""
        state = _state(as_path(uri))
        local = self._local(uri)
        if self._seen.pop(uri, None) != state:
            shutil.rmtree(local, ignore_errors=True)
            download(as_path(uri), local)
        self._seen[uri] = state
        return str(local)

    def new(self, uri: str) -> str:
        """An empty local folder, for what `publish` copies to `uri`."""
        local = self._local(uri)
        self._seen.pop(uri, None)
        shutil.rmtree(local, ignore_errors=True)
        local.mkdir(parents=True)
        return str(local)

    def publish(self, uri: str) -> None:
        """Copies a local folder to `uri`, in place of what is there."""
        target, local = as_path(uri), self._local(uri)
        upload(local, target)
        for name in set(find(target)) - set(find(UPath(local))):
            (target / name).unlink(missing_ok=True)
        self._seen[uri] = _state(target)

    def origin(self, path: str) -> str:
        """The URI of what is at a local path below the area; other paths as they are."""
        for local, uri in self._origins.items():
            if path == local or path.startswith(f"{local}/"):
                return uri + path[len(local) :]
        return path

    def _local(self, uri: str) -> Path:
        local = self._folder / hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._origins[str(local)] = uri
        return local


def _state(folder: UPath) -> str:
    """Changes when the files below a folder do."""
    return json.dumps({name: changing(found) for name, found in find(folder).items()})


@functools.cache
def staging_area() -> StagingArea:
    """The area of this process; it is below `TMPDIR`, and removed at the end."""
    folder, process = tempfile.mkdtemp(prefix="mim-artifacts-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == process else None)
    return StagingArea(folder)


class LocalCopy:
    """A folder for state that outlives an execution, such as checkpoints: local, or copied from and to a remote one.

    Attributes:
        folder: The local folder; it need not exist.
    """

    def __init__(self, location: UPath) -> None:
        self._location, self._is_remote = location, not is_local(location)
        self.folder = Path(local_folder(str(location)))

    def publish(self) -> None:
        """Copies what is in the folder to where the next execution finds it."""
        if self._is_remote:
            staging_area().publish(str(self._location))

    def delete(self) -> None:
        """Deletes the folder everywhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_tree(self._location)


def local_folder(uri: str) -> str:
    """The folder of an artifact on a local disk, copied there where it lies elsewhere."""
    return uri if is_local(uri) else staging_area().fetch(uri)


def on_local_disk(do: Callable[..., None]) -> Callable[..., None]:
    """Makes an executor's `Do` find its artifacts on a local disk, see the module.

    The artifacts' `uri` is the local folder while `do` runs.  Outputs are copied when it has returned; when it raises,
    nothing is.
    """

    @functools.wraps(do)
    def staged(self: Any, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        if not runs_here(getattr(self, "_beam_pipeline_args", None) or ()):
            do(self, input_dict, output_dict, exec_properties)
            return
        with _local_artifacts(input_dict, output_dict):
            do(self, input_dict, output_dict, exec_properties)

    return staged


@contextlib.contextmanager
def _local_artifacts(input_dict: Artifacts, output_dict: Artifacts) -> Iterator[None]:
    area = staging_area()
    inputs, outputs = _remote(input_dict), _remote(output_dict)
    uris = {id(artifact): artifact.uri for artifact in (*inputs, *outputs)}
    try:
        for artifact in inputs:
            artifact.uri = area.fetch(artifact.uri)
        for artifact in outputs:
            artifact.uri = area.new(artifact.uri)
        yield
        for artifact in outputs:
            area.publish(uris[id(artifact)])
            _restore_properties(artifact, area)
    finally:
        for artifact in (*inputs, *outputs):
            artifact.uri = uris[id(artifact)]


def _remote(artifacts: Artifacts) -> list[types.Artifact]:
    every: Iterable[types.Artifact] = (one for several in artifacts.values() for one in several)
    return list({id(one): one for one in every if not is_local(one.uri)}.values())


def _restore_properties(artifact: types.Artifact, area: StagingArea) -> None:
    """Properties that name a local copy name its origin."""
    properties = artifact.mlmd_artifact.custom_properties
    for value in properties.values():
        if value.HasField("string_value"):
            value.string_value = area.origin(value.string_value)


class FsspecFilesystem(filesystem.Filesystem):
    """TFX's own access to object stores, by fsspec: TensorFlow's cannot write to all of them."""

    SUPPORTED_SCHEMES = [f"{scheme}://" for scheme in SCHEMES]

    @staticmethod
    def open(name: str, mode: str = "r") -> Any:
        """Opens a file."""
        return as_path(name).open(mode)

    @staticmethod
    def copy(src: str, dst: str, overwrite: bool = False) -> None:
        """Copies a file."""
        target = as_path(dst)
        if target.exists() and not overwrite:
            raise OSError(f"{dst} is there already")
        with _not_found():
            target.write_bytes(as_path(src).read_bytes())

    @staticmethod
    def exists(path: str) -> bool:
        """Whether there is a file or a folder."""
        return as_path(path).exists()

    @staticmethod
    def glob(pattern: str) -> list[str]:
        """Files that a pattern matches."""
        scheme, key = pattern.split("://", 1)
        name, _, rest = key.partition("/")
        bucket = as_path(f"{scheme}://{name}")
        found = bucket.fs.glob(f"{bucket.path.rstrip('/')}/{rest}")
        return sorted(f"{scheme}://{path.lstrip('/')}" for path in found)

    @staticmethod
    def isdir(path: str) -> bool:
        """Whether files are below a path."""
        return as_path(path).is_dir()

    @staticmethod
    def listdir(path: str) -> list[str]:
        """Names in a folder."""
        with _not_found():
            return [found.name for found in as_path(path).iterdir()]

    @staticmethod
    def makedirs(path: str) -> None:
        """Nothing: an object store has no folders."""

    mkdir = makedirs

    @staticmethod
    def remove(path: str) -> None:
        """Removes a file."""
        with _not_found():
            as_path(path).unlink()

    @staticmethod
    def rename(src: str, dst: str, overwrite: bool = False) -> None:
        """Copies a file, then removes the first."""
        FsspecFilesystem.copy(src, dst, overwrite)
        as_path(src).unlink()

    @staticmethod
    def rmtree(path: str) -> None:
        """Removes a folder."""
        remove_tree(as_path(path))

    @staticmethod
    def stat(path: str) -> Any:
        """Facts about a file."""
        with _not_found():
            return as_path(path).stat()

    @staticmethod
    def walk(
        top: str, topdown: bool = True, onerror: Callable[..., None] | None = None
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """As `os.walk`."""
        start = as_path(top)
        scheme = top.split("://", 1)[0]
        for parent, folders, names in start.fs.walk(start.path, topdown=topdown):
            yield f"{scheme}://{parent.lstrip('/')}", list(folders), list(names)


@contextlib.contextmanager
def _not_found() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise filesystem.NotFoundError() from error


filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(FsspecFilesystem, priority=1)
