"""Finds the files that make up a table: in the folder of the tables, or wherever its `shop.yaml` says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from components.contract.schema import SCHEMA_FILE, SPAN, Schema, Table
from components.contract.tables import PACKED, PLAIN, ContractError
from mim_keras.config import ConfigError

SUFFIXES = tuple(kind + packed for kind in PLAIN for packed in PACKED if not (packed and kind == ".parquet"))
FOUND = tuple(suffix for suffix in SUFFIXES if not suffix.startswith(".txt"))  # without being named in `files`
CATALOGUE, LOGS = ("items", "users"), ("impressions", "events")
EPOCH = date(1970, 1, 1)
SpanKey = tuple[int, ...]
_SPAN_PATTERN = r"(?P<span>\d[\d-]*)"
_GLOB_PATTERNS = {"**": ".*", "*": "[^/]*", "?": "[^/]", SPAN: _SPAN_PATTERN}


@dataclass(frozen=True)
class Spans:
    """Which folders of a table that grows are read.

    A span is a date (`2026-01-31`, `2026-1-31`, `20260131`), or another number, or numbers joined by `-`.  Dates have a
    calendar: a window of seven are the seven days up to the newest, and a day without files is missing.  Of other spans
    the latest that are there are read, and none can be missing.

    Attributes:
        pattern: Path of a folder, or of a file without its suffix, below the table's folder, with `{SPAN}` for a date
            or a number: `{SPAN}`, `day={SPAN}`.  Empty: everything is read.
        window: The latest N spans; 0 for all.
        until: The newest span that is read; empty for the newest that is there.
        missing: `stop` where a date inside the window has no files, or `allow` it.
        catalogue: Of `items` and `users`, where they lie in spans: `all` spans, of which later rows replace earlier
            ones, or the `latest` alone, which is the whole table.
    """

    pattern: str = ""
    window: int = 0
    until: str = ""
    missing: str = "stop"
    catalogue: str = "all"

    def read(self, name: str, pattern: str, files: Iterable[FileMetadata]) -> SpanFiles:
        """Those of `files` that lie in the spans to read.

        Args:
            name: Name of the table.
            pattern: Glob of the files' full paths, with `{SPAN}`.
            files: Files of the table.

        Raises:
            ContractError: a file lies in none; there is no span `until`; a date inside the window is missing.
        """
        found = _by_span(name, pattern, files)
        is_catalogue = name in CATALOGUE
        window = (1 if self.catalogue == "latest" else 0) if is_catalogue else self.window
        last = span_key(self.until) if self.until else max(found, default=())
        if found and last not in found and name in LOGS:
            raise ContractError(
                f"table `{name}`: data.spans.until is {self.until}, and there is no such span; {describe_spans(found)}"
            )
        known = sorted(span for span in found if span <= last)
        if found and not known:
            raise ContractError(
                f"table `{name}`: data.spans.until is {self.until}, and no span is as early; {describe_spans(found)}"
            )
        read, missing = known[-window:], list[SpanKey]()
        if not is_catalogue and known and all(map(span_date, known)):
            read, missing = _days(known, last, window)
            if missing and self.missing == "stop":
                days = sorted([*read, *missing])
                raise ContractError(
                    f"table `{name}`: {len(missing)} of the {len(days)} days that are read, "
                    f"{_span_name(days[0])} to {_span_name(days[-1])}, have no files: {_some(missing)}. Deliver them, "
                    "or set data.spans.missing: allow, which reads the other days and counts these"
                )
        return SpanFiles({span: found[span] for span in read}, [_span_name(span) for span in missing])


@dataclass(frozen=True)
class SpanFiles:
    """The files of the spans that are read, in order; and the days between them that have none."""

    files: dict[SpanKey, list[FileMetadata]]
    missing: list[str]

    @property
    def flat(self) -> list[FileMetadata]:
        """All files."""
        return [meta for files in self.files.values() for meta in files]

    def days(self) -> dict[str, int]:
        """Path of each file → days from 1970 to the date of its span; without the files whose span is no date."""
        dated = {span: day for span in self.files if (day := span_date(span)) is not None}
        return {meta.path: (day - EPOCH).days for span, day in dated.items() for meta in self.files[span]}

    def counts(self) -> dict[str, int]:
        """For the account of the table: how many spans were read, and how many days have no files."""
        return {"spans read": len(self.files), "spans missing": len(self.missing)}


def span_key(text: str) -> SpanKey:
    """The numbers of a span, by which spans are ordered: 2026-9-30 comes before 2026-10-1.

    Raises:
        ContractError: it is neither a date nor a number.
    """
    if not re.fullmatch(r"\d[\d-]*", text):
        raise ContractError(f"a span is a date or a number, e.g. 2026-01-31; received {text!r}")
    key = tuple(int(part) for part in text.split("-") if part)
    if len(text) == 8 and text.isdigit():
        dated = (int(text[:4]), int(text[4:6]), int(text[6:]))
        return dated if span_date(dated) else key
    return key


def span_date(span: SpanKey) -> date | None:
    """The date that a span is, or None."""
    try:
        return date(*span) if len(span) == 3 and 1970 <= span[0] < 2100 else None
    except ValueError:
        return None


def describe_spans(spans: Iterable[SpanKey]) -> str:
    """What is there, for messages."""
    found = sorted(spans)
    if not found:
        return "there is none"
    return f"there are {len(found)}, {_span_name(found[0])} to {_span_name(found[-1])}"


def _by_span(name: str, pattern: str, files: Iterable[FileMetadata]) -> dict[SpanKey, list[FileMetadata]]:
    below = pattern.removesuffix("/")  # a folder, or a file of that name
    ends = "[/.]" if below != pattern else ""
    expression = re.compile("".join(_expression(part) for part in _parts(below)) + ends)
    found: dict[SpanKey, list[FileMetadata]] = {}
    outside = []
    for meta in files:
        matched = expression.match(meta.path)
        if matched is None:
            outside.append(meta)
        else:
            found.setdefault(span_key(matched["span"]), []).append(meta)
    if outside and (found or name not in CATALOGUE):
        raise ContractError(
            f"table `{name}`: {outside[0].path} lies in no span; it should be like {pattern}, with a date or a "
            "number for {SPAN}. Move the file, or mend data.spans.pattern"
        )
    return {**found, **({(): outside} if outside else {})}


def _days(known: list[SpanKey], last: SpanKey, window: int) -> tuple[list[SpanKey], list[SpanKey]]:
    """Of the dates `known`, ascending, those in the window of days up to `last`; and the days in it that are not known.
    Days before the first known one are not missing: the log begins there."""
    dates = {day: span for span in known if (day := span_date(span)) is not None}
    end = span_date(last) or max(dates)
    begin = max(min(dates), end - timedelta(days=window - 1)) if window else min(dates)
    days = [begin + timedelta(days=n) for n in range((end - begin).days + 1)]
    missing: list[SpanKey] = [(day.year, day.month, day.day) for day in days if day not in dates]
    return [dates[day] for day in days if day in dates], missing


def _span_name(span: SpanKey) -> str:
    day = span_date(span)
    return day.isoformat() if day else "-".join(map(str, span))


def _some(spans: list[SpanKey]) -> str:
    return ", ".join(map(_span_name, spans[:5])) + (" …" if len(spans) > 5 else "")


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
    of the spans to read.  Files and folders whose names begin with `_` or `.` are no data: other programs keep their
    notes there.
    """
    if table is not None and table.files and (literal := _literal(resolve(data, table.files))):
        return literal  # a name may hold what looks like a glob
    others, pattern, inside = _located(data, name, table, spans)
    return others + (spans.read(name, pattern, inside).flat if pattern else inside)


def span_files(data: str, name: str, table: Table | None = None, spans: Spans = ALL_SPANS) -> SpanFiles | None:
    """The spans of table `name` that are read; None where it does not lie in spans.

    Raises:
        ContractError: as `Spans.read`.
    """
    _, pattern, inside = _located(data, name, table, spans)
    return spans.read(name, pattern, inside) if pattern and inside else None


def _located(
    data: str, name: str, table: Table | None, spans: Spans
) -> tuple[list[FileMetadata], str, list[FileMetadata]]:
    """Files of a table that lie in no span; the pattern of its spans, "" for none; the files that should lie in one."""
    if table is not None and table.files:
        glob = resolve(escape_glob(data), table.files)
        inside = [meta for meta in match_files([glob.replace(SPAN, "*")]) if not _hidden(meta, glob)]
        others, pattern = [], glob if SPAN in glob else ""
    else:
        folder, escaped = FileSystems.join(data, name), FileSystems.join(escape_glob(data), name)
        others = [meta for suffix in FOUND for meta in match_files([escaped + suffix])]
        inside = match_files([FileSystems.join(escaped, "**" + suffix) for suffix in FOUND])
        inside = [meta for meta in inside if not _hidden(meta, folder)]
        pattern = FileSystems.join(folder, spans.pattern) + "/" if spans.pattern else ""
    if spans.until and name in LOGS and (others or inside) and (others or not pattern):
        raise ContractError(
            f"table `{name}`: data.spans.until is {spans.until}, and {(others or inside)[0].path} lies in no span, so "
            "that nothing says what was there by then. Give each day a folder of its own, and data.spans.pattern"
        )
    return others, pattern, inside


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
