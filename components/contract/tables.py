"""Reads the tables a user brings, as batches of rows that know where they came from."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from components.metrics import counter

BATCH_ROWS = 8_192
PICTURE_ROWS = 256  # of tables whose rows may hold pictures
READ_BUFFER = 1 << 20
PLAIN, PACKED = (".parquet", ".csv", ".tsv"), ("", ".gz", ".bz2", ".zst")
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
COLUMNS = {
    "items": (("item_id",), ("title", "text", "category", "image", "image_path", "created_at")),
    "impressions": (("user_id", "item_id", "timestamp", "clicked"), ("sequence",)),
    "intents": (("item_id", "timestamp"), ("query_item_id", "query_image", "query_text", "signal")),
    "users": (("user_id",), ()),
}
MALFORMED = "__malformed__"


class ContractError(ValueError):
    """A table as a whole breaks the data contract.  The message names the file, the rule and the fix."""


@dataclass
class TableBatch:
    """Some rows of one file.

    Attributes:
        file: The file's path.
        rows: The rows' numbers in the file, from 1, [n].
        columns: Column name to array of n values, as found in the file; columns the file lacks are missing.
    """

    file: str
    rows: np.ndarray
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.rows)


def partitions(path: str) -> dict[str, str | None]:
    """Columns that a path tells, Hive's way: `impressions/day=2026-01-31/part-0.parquet` has the column `day`."""
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == NO_PARTITION else unquote(value) for key, value in pairs}


def check_columns(name: str, path: str, found: list[str], further: tuple[str, ...]) -> None:
    """Raises `ContractError` where `path` lacks a column that table `name` must have."""
    required, optional = COLUMNS[name]
    missing = [column for column in (*required, *further) if column not in {*found, *partitions(path)}]
    if missing:
        raise ContractError(
            f"table `{name}`: {path} lacks the column {', '.join(missing)}; it has {', '.join(found) or 'none'}. "
            f"Required: {', '.join((*required, *further))}; optional: {', '.join(optional) or 'none'}"
        )


def read_file(path: str, name: str, further: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Iterator[TableBatch]:
    """Reads one file of table `name` in batches.

    Args:
        path: On any file system that Beam reads.
        name: Which table; decides the columns that are read.
        further: Columns beyond the contract's that must be there (context features, user profile).
        only: Where given, nothing but these columns is read.

    Raises:
        ContractError: a missing column, or a file that cannot be read at all.
    """
    required, optional = COLUMNS[name]
    wanted = only or (*required, *optional, *further)
    if not only:
        counter("files read").inc()
        counter("bytes read").inc(FileSystems.match([path])[0].metadata_list[0].size_in_bytes)
    try:
        read = _read_parquet if path.endswith(".parquet") else _read_text
        told = {column: value for column, value in partitions(path).items() if column in wanted}
        for batch in read(path, name, wanted, further):
            for column in set(told) - set(batch.columns):
                batch.columns[column] = pa.repeat(pa.scalar(told[column], pa.string()), len(batch))
            yield batch
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ContractError(f"table `{name}`: {path} cannot be read ({error}); is it whole?") from error


def _read_parquet(path: str, name: str, wanted: tuple[str, ...], further: tuple[str, ...]) -> Iterator[TableBatch]:
    with FileSystems.open(path) as handle:
        # Through a buffer: else a row group is read whole, and with pictures in it it may be gigabytes.
        file = pq.ParquetFile(handle, buffer_size=READ_BUFFER, pre_buffer=False)
        found = file.schema_arrow.names
        check_columns(name, path, found, further)
        first = 1
        columns = [column for column in wanted if column in found]
        for batch in file.iter_batches(batch_size=_batch_rows(columns), columns=columns):
            rows = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            yield TableBatch(path, rows, dict(zip(batch.schema.names, batch.columns, strict=True)))
        if (told := file.metadata.num_rows) != first - 1:
            raise ContractError(f"table `{name}`: {path} says it has {told} rows, and {first - 1} came; is it whole?")


def _batch_rows(columns: list[str]) -> int:
    return PICTURE_ROWS if {"image", "image_path", "query_image"} & set(columns) else BATCH_ROWS


def _read_text(path: str, name: str, wanted: tuple[str, ...], further: tuple[str, ...]) -> Iterator[TableBatch]:
    """CSV or TSV; everything is read as text, so that a bad value costs its row and not the file."""
    plain, packed = (path, "") if path.endswith(PLAIN) else path.rsplit(".", 1)
    with FileSystems.open(path, compression_type="uncompressed") as raw:
        text = io.TextIOWrapper(
            io.BufferedReader(_Readable(_UNPACK[packed](raw))), encoding="utf-8-sig", newline="", errors="replace"
        )
        reader = csv.reader(text, delimiter="\t" if plain.endswith(".tsv") else ",")
        header = next(reader, [])
        check_columns(name, path, header, further)
        places = {column: header.index(column) for column in wanted if column in header}
        batch_rows = _batch_rows(list(places))
        pending: list[list[str]] = []
        first = 1
        for record in reader:
            pending.append(record)
            if len(pending) == batch_rows:
                yield _text_batch(path, first, pending, places, len(header))
                first, pending = first + len(pending), []
        if pending:
            yield _text_batch(path, first, pending, places, len(header))


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "": lambda raw: raw,
    "gz": lambda raw: gzip.GzipFile(fileobj=raw),
    "bz2": lambda raw: bz2.BZ2File(raw),
    "zst": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"),
}


class _Readable(io.RawIOBase):
    """Gives `io.TextIOWrapper` what it asks of a stream, over Beam's file handles."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(data)] = data
        return len(data)


def _text_batch(path: str, first: int, records: list[list[str]], places: dict[str, int], width: int) -> TableBatch:
    malformed = [len(record) != width for record in records]
    columns: dict[str, pa.Array] = {
        column: pa.array(
            [
                None if bad or record[place] == "" else record[place]
                for record, bad in zip(records, malformed, strict=True)
            ],
            pa.string(),
        )
        for column, place in places.items()
    }
    if any(malformed):
        columns[MALFORMED] = pa.array(
            [
                f"{len(r)} fields where the header has {width}" if bad else None
                for r, bad in zip(records, malformed, strict=True)
            ],
            pa.string(),
        )
    return TableBatch(path, np.arange(first, first + len(records)), columns)


class ReadTable(beam.PTransform):
    """Files of one table → `TableBatch`es, each file read once, on whatever worker takes it."""

    def __init__(self, files: list[str], name: str, further: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._files, self._name, self._further, self._only = files, name, further, only

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[TableBatch]:
        return (
            pipeline
            | "Files" >> beam.Create(self._files)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(read_file, self._name, self._further, self._only)
        )
