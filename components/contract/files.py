"""Finds the files that make up a table: in the folder of the tables, or wherever its `shop.yaml` says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from components.contract.schema import SCHEMA_FILE, SPAN, Schema, Table
from components.contract.tables import PACKED, PLAIN, ContractError
from mim_keras.config import ConfigError

SUFFIXES = tuple(kind + packed for kind in PLAIN for packed in PACKED if not (packed and kind == ".parquet"))
FOUND = tuple(suffix for suffix in SUFFIXES if not suffix.startswith(".txt"))  # without being named in `files`
_SPAN_PATTERN = r"(?P<span>\d[\d-]*)"
_GLOB_PATTERNS = {"**": ".*", "*": "[^/]*", "?": "[^/]", SPAN: _SPAN_PATTERN}


@dataclass(frozen=True)
class Spans:
    """Which folders of a table that grows are read.

    Attributes:
        pattern: Path below the table's folder, with `{SPAN}` for a date or a number: `{SPAN}`, `day={SPAN}`.
            Empty: everything is read.
        window: The latest N spans; 0 for all.
    """

    pattern: str = ""
    window: int = 0

    def latest(self, name: str, pattern: str, files: Iterable[FileMetadata]) -> list[FileMetadata]:
        """Those of `files` that lie in the latest spans.

        Args:
            name: Name of the table.
            pattern: Glob of the files' full paths, with `{SPAN}`.
            files: Files of the table.

        Raises:
            ContractError: a file lies in none.
        """
        expression = re.compile("".join(_expression(part) for part in _parts(pattern)))
        found: dict[tuple[int, ...], list[FileMetadata]] = {}
        for meta in files:
            matched = expression.match(meta.path)
            if matched is None:
                raise ContractError(
                    f"table `{name}`: {meta.path} lies in no span; it should be like {pattern}, with a date or a "
                    "number for {SPAN}. Move the file, or mend data.spans.pattern"
                )
            # 2026-9-30 comes before 2026-10-1
            found.setdefault(tuple(int(part) for part in matched["span"].split("-") if part), []).append(meta)
        return [meta for span in sorted(found)[-self.window :] for meta in found[span]]


def _expression(part: str) -> str:
    """A part of a glob as a regular expression."""
    if part.startswith("[") and part.endswith("]"):
        return part.replace("[!", "[^")
    return _GLOB_PATTERNS.get(part, re.escape(part))


ALL_SPANS = Spans()


def load_schema(data: str) -> Schema:
    """The schema in the folder `data`; that of the contract's own names where there is none.

    Raises:
        ConfigError: it is not YAML, or breaks a rule.
    """
    path = FileSystems.join(data, SCHEMA_FILE)
    if not FileSystems.exists(path):
        if FileSystems.exists(misspelt := FileSystems.join(data, "shop.yml")):
            raise ConfigError(f"the schema is named {SCHEMA_FILE}; received {misspelt}. Rename it")
        return Schema()
    with FileSystems.open(path) as handle:
        return Schema.from_yaml(handle.read(), path)


def table_files(data: str, name: str, table: Table | None = None, spans: Spans = ALL_SPANS) -> list[FileMetadata]:
    """Whatever makes up table `name` in folder `data`.

    That is what `files` of its schema says; without, `name.SUFFIX`, and the files in the folder `name`, however deep,
    of the latest spans.  Files and folders whose names begin with `_` or `.` are no data: other programs keep their
    notes there.
    """
    if table is not None and table.files:
        if literal := _literal(resolve(data, table.files)):  # a name may hold what looks like a glob
            return literal
        glob = resolve(escape_glob(data), table.files)
        found = [meta for meta in match_files([glob.replace(SPAN, "*")]) if not _hidden(meta, glob)]
        return spans.latest(name, glob, found) if SPAN in glob else found
    folder, escaped = FileSystems.join(data, name), FileSystems.join(escape_glob(data), name)
    found = [meta for suffix in FOUND for meta in match_files([escaped + suffix])]
    inside = match_files([FileSystems.join(escaped, "**" + suffix) for suffix in FOUND])
    inside = [meta for meta in inside if not _hidden(meta, folder)]
    pattern = FileSystems.join(folder, spans.pattern) + "/"
    return found + (spans.latest(name, pattern, inside) if spans.pattern else inside)


def find_table(data: str, name: str, table: Table | None = None, spans: Spans = ALL_SPANS) -> list[str]:
    """The paths of `find_files`."""
    return [meta.path for meta in find_files(data, name, table, spans)]


def find_files(data: str, name: str, table: Table | None = None, spans: Spans = ALL_SPANS) -> list[FileMetadata]:
    """Those of `table_files` that are not empty.

    Raises:
        ContractError: a required table is missing, or what is there is empty, of an unknown kind, or of two kinds at
            once; a file of a table that grows lies in no span.
    """
    found = table_files(data, name, table, spans)
    if not found:
        if table is not None and table.files:
            raise ContractError(f"{name}.files names no file: {table.files} in {data}. Mend it in {SCHEMA_FILE}")
        if name in ("items", "impressions"):
            raise ContractError(
                f"the folder {data} holds no table `{name}`; expected {name}.parquet, {name}.csv or {name}.tsv "
                f"(also .gz, .bz2, .zst), a folder {name}/ of such files, or a {SCHEMA_FILE} that says where they lie "
                "(`mim init` writes it)"
            )
        return []
    for meta in found:
        if not meta.path.endswith(SUFFIXES):
            raise ContractError(f"{name}.files must end in {', '.join(SUFFIXES)}; received {meta.path}")
    kinds = {_kind(meta.path): meta.path for meta in found}
    if len(kinds) > 1:
        raise ContractError(
            f"table `{name}` lies in two formats: {' and '.join(sorted(kinds.values()))}. Every row would count twice "
            f"where both hold the same; keep one, or name it in {SCHEMA_FILE}: {name}.files"
        )
    filled = [meta for meta in found if meta.size_in_bytes > 0]
    if not filled:
        raise ContractError(
            f"table `{name}`: {', '.join(meta.path for meta in found)} is empty (0 bytes); export it again"
        )
    return filled


def resolve(folder: str, path: str) -> str:
    """A path that is absolute, a URL, or relative to `folder`."""
    return path if path.startswith("/") or "://" in path else FileSystems.join(folder, path)


def escape_glob(path: str) -> str:
    """A path as a glob that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _literal(path: str) -> list[FileMetadata]:
    """The local file of just this name."""
    local = Path(path)
    if "://" in path or not local.is_file():
        return []
    status = local.stat()
    return [FileMetadata(path, status.st_size, status.st_mtime)]


def _kind(path: str) -> str:
    return next(kind for kind in PLAIN for packed in PACKED if path.endswith(kind + packed))


def match_files(patterns: list[str]) -> list[FileMetadata]:
    """The files that globs match, each once, in the order of their paths."""
    found = {meta.path: meta for match in FileSystems.match(patterns) for meta in match.metadata_list}
    return [found[path] for path in sorted(found)]


def _hidden(meta: FileMetadata, beside: str) -> bool:
    """Whether a part of the path that `beside` does not name begins with `_` or `.`."""
    named = set(beside.split("/"))
    return any(part[:1] in ("_", ".") for part in meta.path.split("/") if part and part not in named)


def _parts(glob: str) -> list[str]:
    return [part for part in re.split(r"(\{SPAN\}|\*\*|\*|\?|\[[^\]]*\])", glob) if part]
