"""What decides whether a step must run again: the data that goes in, and the code that runs."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from components.contract.files import ALL_SPANS, Spans, escape_glob, match_files, resolve, table_files
from components.contract.image_files import find_archives
from components.contract.schema import Schema

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("mim_keras", "components", "tfx_pipeline", "serving")
PICTURES = (
    *(".avif", ".bmp", ".gif", ".heic", ".ico", ".jfif", ".jp2", ".jpeg"),
    *(".jpg", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


def data_fingerprint(data: str, schema: Schema, *tables: str, spans: Spans = ALL_SPANS) -> str:
    """Digest of names, sizes and times of the files that make up `tables` in folder `data`; of items, the pictures
    and their archives too."""
    found = [meta for table in tables for meta in table_files(data, table, schema.table(table), spans)]
    found += find_archives(data) if "items" in tables else []
    lines = [f"{meta.path} {meta.size_in_bytes} {meta.last_updated_in_seconds}" for meta in found]
    lines += _picture_lines(resolve(data, schema.images)) if "items" in tables else []
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _picture_lines(folder: str) -> Iterator[str]:
    if "://" in folder:
        found = match_files([FileSystems.join(escape_glob(folder), "**")])
        pictures = (meta for meta in found if meta.path.lower().endswith(PICTURES))
        yield from (f"{meta.path} {meta.size_in_bytes} {meta.last_updated_in_seconds}" for meta in pictures)
        return
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        own = os.stat(parent)
        if (own.st_dev, own.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((own.st_dev, own.st_ino))
        for name in names:
            if not name.lower().endswith(PICTURES):
                continue
            with contextlib.suppress(OSError):  # a broken link
                state = os.stat(os.path.join(parent, name))
                yield f"{parent}/{name} {state.st_size} {state.st_mtime_ns}"


@functools.cache
def code_fingerprint(*modules: str) -> str:
    """Digest of what the modules of this project named by `modules` run: their source, that of every module of this
    project that they import, files beside these, and the versions of all other packages that they import.

    Example:
        >>> from tfx_pipeline.fingerprints import code_fingerprint
        >>> code_fingerprint("mim_keras.metrics.gauc") == code_fingerprint("mim_keras.metrics.auc")
        False
    """
    own, others = imported_modules(*modules)
    digest = hashlib.sha256(platform.python_version().encode())
    files = {file for module in own for file in _files_of(module)}
    for path in sorted(files):
        digest.update(str(path.relative_to(PROJECT)).encode() + path.read_bytes())
    versions = {name for top in others for name in _distributions().get(top, ())}
    for name in sorted(versions):
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()[:16]


def imported_modules(*modules: str) -> tuple[set[str], set[str]]:
    """Modules of this project that `modules` import, directly or not, themselves included; and other packages.

    A name that a package of this project re-exports stands for the module that defines it.

    Raises:
        ModuleNotFoundError: one of `modules` is not of this project.
    """
    for module in modules:
        if _file(module) is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project")
    own: set[str] = set()
    others: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in own:
            continue
        own.add(module)
        imported, packages = _imports(module)
        others |= packages
        waiting += imported
    return own, others


@functools.cache
def _imports(module: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Modules of this project that one imports anywhere in its source, and other packages."""
    own: list[str] = []
    others: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{module} has a relative import, which fingerprints do not follow: write its full name")
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for source, name in wanted:
            top = source.partition(".")[0]
            if top in PACKAGES:
                own.append(_defining(source, name))
            elif top not in sys.stdlib_module_names:
                others.add(top)
    return tuple(own), frozenset(others)


def _defining(module: str, name: str) -> str:
    """The module that `from module import name` ends at."""
    if name and _file(f"{module}.{name}"):
        return f"{module}.{name}"
    file = _file(module)
    if file is None:
        raise ModuleNotFoundError(f"{module} is imported and is not a module of this project")
    if file.name != "__init__.py" or not name:
        return module
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and name in {a.asname or a.name for a in node.names}:
            return _defining(node.module, name) if node.module.partition(".")[0] in PACKAGES else module
        if isinstance(node, ast.Dict):  # lazy: name → module
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name and isinstance(value, ast.Constant):
                    return _defining(str(value.value), name)
    return module


@functools.cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None
    return ast.parse(file.read_text())


@functools.cache
def _file(module: str) -> Path | None:
    path = PROJECT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _files_of(module: str) -> Iterator[Path]:
    """Its source, those of its packages, and files beside it that are no source: a page's template, say."""
    file = _file(module)
    assert file is not None
    yield file
    for parent in file.parents:
        if parent == PROJECT:
            break
        if (parent / "__init__.py").is_file():
            yield parent / "__init__.py"
    beside = (path for path in file.parent.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc"))
    yield from (path for path in beside if not path.name.startswith(".") and not path.name.endswith("~"))


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
