"""Reads the tables a user brings, as batches of rows that know where they came from."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from components.contract.schema import CONTRACT, Table
from components.contract.values import decode_utf8
from components.metrics import counter

BATCH_ROWS = 8_192
PICTURE_ROWS = 256  # of tables whose rows may hold pictures
TEXT_BLOCK, LARGEST_RECORD = 1 << 20, 1 << 26  # bytes
PIECE_BYTES = 16 << 20  # of row groups that one worker reads with one look at the footer
PLAIN, PACKED = (".parquet", ".csv", ".tsv", ".txt"), ("", ".gz", ".bz2", ".zst")
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
MALFORMED = "__malformed__"


class ContractError(ValueError):
    """A table as a whole breaks the data contract.  The message names the file, the rule and the fix."""


@dataclass
class TableBatch:
    """Some rows of one file.

    Attributes:
        file: The file's path.
        rows: The rows' numbers in the file, from 1, [n].
        columns: The contract's name of a column, or a feature's, to an array of n values, as found in the file;
            columns that the file lacks are missing.
    """

    file: str
    rows: np.ndarray
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class FilePiece:
    """A part of a file that one worker reads.

    Attributes:
        path: The file.
        row_groups: Half-open range of row groups of a Parquet file; None for a text file.
        first_row: Number of its first row, from 1.
    """

    path: str
    row_groups: tuple[int, int] | None = None
    first_row: int = 1


def partitions(path: str) -> dict[str, str | None]:
    """Hive partition columns of a path: `impressions/day=2026-01-31/part-0.parquet` has the column `day`."""
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == NO_PARTITION else unquote(value) for key, value in pairs}


def wanted_columns(name: str, table: Table) -> tuple[str, ...]:
    """All columns of table `name`: the contract's, then the features.

    An optional column of the contract whose name the shop uses for something else is left out.
    """
    used = {column.column for column in table.columns.values()}
    own = [n for n, one in CONTRACT[name].items() if one.required or n in table.columns or n not in used]
    return (*own, *table.declared(name))


def check_columns(name: str, table: Table, path: str, found: list[str]) -> None:
    """Raises `ContractError` where `path` lacks a column that table `name` must have, or has it twice."""
    there = {*found, *partitions(path)}
    required = [n for n, column in CONTRACT[name].items() if column.required or n in table.columns]
    required += table.declared(name)
    sources = {n: table.source(n) for n in required}
    missing = [source if source == n else f"{source} ({n})" for n, source in sources.items() if source not in there]
    if missing:
        other = next((sign for sign in (";", "\t", "|", ",") if len(found) == 1 and sign in found[0]), None)
        if other is not None:
            raise ContractError(
                f"table `{name}`: {path} has one column, {found[0][:200]!r}; is {other!r} its delimiter? Write "
                f'shop.yaml: {name}: {{delimiter: "{other}"}} (`mim init` does)'.replace("\t", "\\t")
            )
        optional = [n for n, column in CONTRACT[name].items() if not column.required]
        raise ContractError(
            f"table `{name}`: {path} lacks the column {', '.join(missing)}; it has {', '.join(found) or 'none'}. "
            f"Required: {', '.join(required)}; optional: {', '.join(optional) or 'none'}. Other names are mapped in "
            f"shop.yaml: {name}.columns (`mim init` writes it)"
        )
    twice = sorted({n for n in found if found.count(n) > 1} & {table.source(n) for n in wanted_columns(name, table)})
    if twice:
        raise ContractError(f"table `{name}`: {path} has the column {', '.join(twice)} twice. Rename one")


def split_file(path: str, name: str = "") -> Iterator[FilePiece]:
    """The parts of a file that can be read side by side: row groups of Parquet, at least
    `PIECE_BYTES` of them together; else the file as a whole.

    Raises:
        ContractError: a Parquet file whose footer cannot be read.
    """
    counter("files read").inc()
    counter("bytes read").inc(FileSystems.get_filesystem(path).size(path))
    if not path.endswith(".parquet"):
        yield FilePiece(path)
        return
    try:
        with _open_parquet(path) as file:
            first, begin, rows, size = 1, 0, 0, 0
            for group in range(file.metadata.num_row_groups):
                row_group = file.metadata.row_group(group)
                rows, size = rows + row_group.num_rows, size + row_group.total_byte_size
                if size >= PIECE_BYTES or group + 1 == file.metadata.num_row_groups:
                    yield FilePiece(path, (begin, group + 1), first)
                    first, begin, rows, size = first + rows, group + 1, 0, 0
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(f"table `{name}`: {path}", error) from error


def read_piece(piece: FilePiece, name: str, table: Table, only: tuple[str, ...] = ()) -> Iterator[TableBatch]:
    """Reads a part of a file of table `name` in batches.

    Args:
        piece: On any file system that Beam reads.
        name: Which table.
        table: Where its columns come from.
        only: Where given, nothing but these columns is read.

    Raises:
        ContractError: a missing column, or a file that cannot be read at all.
    """
    path, wanted = piece.path, only or wanted_columns(name, table)
    read = _read_parquet if path.endswith(".parquet") else _read_text
    in_path = partitions(path)
    partition_values = {n: in_path[table.source(n)] for n in wanted if table.source(n) in in_path}
    try:
        for batch in read(piece, name, table, wanted):
            for column in set(partition_values) - set(batch.columns):
                batch.columns[column] = pa.repeat(pa.scalar(partition_values[column], pa.string()), len(batch))
            yield batch
    except ContractError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(f"table `{name}`: {path}", error) from error


def read_file(path: str, name: str, table: Table | None = None, only: tuple[str, ...] = ()) -> Iterator[TableBatch]:
    """Reads a whole file; see `read_piece`."""
    for piece in split_file(path, name):
        yield from read_piece(piece, name, table or Table(), only)


def unreadable(what: str, error: Exception) -> ContractError:
    """The error for a file that cannot be read at all; `what` names it."""
    return ContractError(f"{what} cannot be read ({error}); is it whole?")


def _open_parquet(path: str) -> pq.ParquetFile:
    """Without a read buffer: pyarrow's fails on some sizes of pages.  A local file is mapped, so that a row group with
    pictures in it is not read whole."""
    source = pa.memory_map(path) if "://" not in path else FileSystems.open(path, compression_type="uncompressed")
    return pq.ParquetFile(source, pre_buffer=False)


def _read_parquet(piece: FilePiece, name: str, table: Table, wanted: tuple[str, ...]) -> Iterator[TableBatch]:
    with _open_parquet(piece.path) as file:
        found = flat_names(file.schema_arrow)
        check_columns(name, table, piece.path, found)
        sources = {n: table.source(n) for n in wanted if table.source(n) in found}
        top_level = set(file.schema_arrow.names)
        columns = list(dict.fromkeys(s if s in top_level else s.split(".")[0] for s in sources.values()))
        groups = list(range(*piece.row_groups)) if piece.row_groups else None
        first = piece.first_row
        for batch in file.iter_batches(batch_size=_batch_rows(wanted), row_groups=groups, columns=columns):
            rows = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            arrays = flat_columns(batch)
            yield TableBatch(piece.path, rows, {n: arrays[source] for n, source in sources.items()})
        expected = sum(file.metadata.row_group(group).num_rows for group in groups or ())
        if groups is not None and expected != (came := first - piece.first_row):
            raise ContractError(
                f"table `{name}`: {piece.path} says it has {expected} rows in row groups {groups[0]} to {groups[-1]}, "
                f"and {came} came; is it whole?"
            )


def flat_names(schema: pa.Schema) -> list[str]:
    """Names of the columns, and of the fields of records among them as `column.field`."""
    names: list[str] = []

    def add(name: str, kind: pa.DataType) -> None:
        names.append(name)
        if pa.types.is_struct(kind):
            for place in range(kind.num_fields):
                add(f"{name}.{kind.field(place).name}", kind.field(place).type)

    for column in schema:
        add(column.name, column.type)
    return names


def flat_columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The columns of `flat_names`; those of a row group that was read."""
    found: dict[str, pa.Array] = {}

    def add(name: str, values: pa.Array) -> None:
        found[name] = values
        if pa.types.is_struct(values.type):
            for place in range(values.type.num_fields):
                add(f"{name}.{values.type.field(place).name}", pc.struct_field(values, place))

    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        add(name, values)
    return found


def _batch_rows(columns: tuple[str, ...]) -> int:
    return PICTURE_ROWS if {"image", "image_path", "query_image"} & set(columns) else BATCH_ROWS


def _read_text(piece: FilePiece, name: str, table: Table, wanted: tuple[str, ...]) -> Iterator[TableBatch]:
    """CSV or TSV; everything is read as bytes, so that a bad value costs its row and not the file."""
    path = piece.path
    plain = path if path.endswith(PLAIN) else path.rsplit(".", 1)[0]
    delimiter = table.delimiter or ("\t" if plain.endswith(".tsv") else ",")
    quoting = table.quoting if table.quoting is not None else not plain.endswith(".tsv")
    with FileSystems.open(path, compression_type="uncompressed") as raw:
        parser: _TextParser | None = None
        for chunk, broken in split_records(_utf8(unpacked(raw, path), table.encoding), delimiter, quoting):
            if parser is None:
                header = _header(chunk, delimiter, quoting, path, name)
                check_columns(name, table, path, header)
                sources = {n: table.source(n) for n in wanted if table.source(n) in header}
                parser = _TextParser(path, header, sources, delimiter, quoting)
            for batch in parser.parse(chunk, broken):
                size = _batch_rows(wanted)
                for begin in range(0, len(batch), size):
                    yield _slice(batch, begin, size)


def _slice(batch: TableBatch, begin: int, size: int) -> TableBatch:
    columns = {n: values.slice(begin, size) for n, values in batch.columns.items()}
    return TableBatch(batch.file, batch.rows[begin : begin + size], columns)


def split_records(stream: Any, delimiter: str, quoting: bool) -> Iterator[tuple[bytes, bool]]:
    """Bytes of whole records, and whether these are the first line of a record whose quote is not closed.

    Such a line is given by itself, so that the lines after it are read as the records that they are.  A record of more
    than `LARGEST_RECORD` bytes counts as not closed, and so does a field of several lines whose closing quote does
    not end the field: a stray quote, or one that was escaped by a backslash, swallowed the lines up to the next one.

    Args:
        stream: Of UTF-8; its `read` gives bytes.
        delimiter: Of fields.
        quoting: Whether `"` quotes fields, which then may hold line ends.
    """
    mark = re.escape(delimiter.encode())
    quoted = re.compile(rb"(?:\A|(?<=[\r\n])|(?<=" + mark + rb'))"(?:[^"]+|"")*("?)')
    closing = re.compile(rb"[ \t]*(?:" + mark + rb"|[\r\n]|\Z)")
    rest, ended, is_read = b"", False, False
    while not ended or rest:
        if not ended and not is_read:
            # Twice what is left over, so that a large record is looked through only a few times.
            read = stream.read(max(TEXT_BLOCK, len(rest)))
            ended = not read
            rest += read
        if not rest:
            return
        fields, stray = _quoted_fields(quoted, rest, closing) if quoting and b'"' in rest else ([], None)
        is_read = stray is not None
        if stray is not None:
            begin = _last_line_end(rest, _outside(fields, stray), True)
            if begin:
                yield rest[:begin], False
            end = begin + _first_line_end(rest[begin:])
            yield rest[begin:end], True
            rest = rest[end:]
            continue
        # A quote at the end may be half of two.
        is_open = bool(fields) and (not fields[-1][1] or (fields[-1].end() == len(rest) and not ended))
        outside = _outside(fields, len(rest))[: -1 if is_open else None]
        end = len(rest) if ended and not is_open else _last_line_end(rest, outside, ended)
        if end:
            yield rest[:end], False
        elif ended or len(rest) > LARGEST_RECORD:
            end = _first_line_end(rest)
            yield rest[:end], True
        rest = rest[end:]


def _quoted_fields(
    quoted: re.Pattern[bytes], data: bytes, closing: re.Pattern[bytes]
) -> tuple[list[re.Match[bytes]], int | None]:
    """(Quoted fields up to a stray quote, where that is); None where there is no stray quote."""
    fields: list[re.Match[bytes]] = []
    for field in quoted.finditer(data):
        if field[1] and re.search(rb"[\r\n]", field[0]) and not closing.match(data, field.end()):
            return fields, field.start()
        fields.append(field)
    return fields, None


def _outside(fields: list[re.Match[bytes]], limit: int) -> list[tuple[int, int]]:
    """The ranges between quoted fields, up to `limit`."""
    ends, starts = (one.end() for one in fields), (one.start() for one in fields)
    return list(zip([0, *ends], [*starts, limit], strict=True))


def _last_line_end(data: bytes, ranges: list[tuple[int, int]], ended: bool) -> int:
    """Behind the last line end in one of the ranges; 0 where there is none."""
    mark = b"\n" if b"\n" in data else b"\r"
    for begin, limit in reversed(ranges):
        # A \r at the very end may be half of \r\n.
        limit = limit if ended or mark == b"\n" else min(limit, len(data) - 1)
        if (found := data.rfind(mark, begin, limit)) >= 0:
            return found + 1
    return 0


def _first_line_end(data: bytes) -> int:
    found = data.find(b"\n" if b"\n" in data else b"\r")
    return found + 1 if found >= 0 else len(data)


class _TextParser:
    """Parses the records of one file, chunk by chunk, and numbers them."""

    def __init__(self, path: str, header: list[str], sources: dict[str, str], delimiter: str, quoting: bool) -> None:
        self._path, self._width, self._count = path, len(header), 0
        self._is_first = True
        self._places = {n: f"c{header.index(source)}" for n, source in sources.items()}
        self._names = [f"c{place}" for place in range(len(header))]
        self._quoting = quoting
        self._parse = {
            "delimiter": delimiter,
            "quote_char": '"' if quoting else False,
            "double_quote": quoting,
            "newlines_in_values": quoting,
        }

    def parse(self, chunk: bytes, broken: bool) -> Iterator[TableBatch]:
        """The rows of `chunk`; see `split_records`."""
        if broken:
            text = chunk.decode(errors="replace").strip()[:50]
            yield self._batch(0, {}, {0: f"a quote is opened and not closed: {text}"})
            return
        invalid: dict[int, str] = {}
        # pyarrow gives malformed rows to `keep` as text: a chunk that is no UTF-8 is parsed as if it were Latin-1.
        is_text = decode_utf8(chunk) is not None
        chunk = chunk if is_text else chunk.decode("latin-1").encode()

        def keep(row: pyarrow.csv.InvalidRow) -> str:
            invalid[row.number - 1] = f"{row.actual_columns} fields where the header has {row.expected_columns}"
            return "skip"

        table = pyarrow.csv.read_csv(
            pa.BufferReader(chunk),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=len(chunk) + 1, column_names=self._names),
            pyarrow.csv.ParseOptions(**self._parse, invalid_row_handler=keep),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(self._names, pa.binary()),
                null_values=[""],
                strings_can_be_null=True,
                include_columns=list(dict.fromkeys(self._places.values())) or self._names[:1],
            ),
        )
        columns = {n: table[place].combine_chunks() for n, place in self._places.items()}
        if not is_text:
            columns = {n: _from_latin_1(values) for n, values in columns.items()}
        number = table.num_rows
        if self._is_first:  # the header
            self._is_first = False
            columns = {n: values.slice(1) for n, values in columns.items()}
            number -= 1
            invalid = {row - 1: what for row, what in invalid.items()}
        if number + len(invalid):
            yield self._batch(number, columns, invalid)

    def _batch(self, valid: int, columns: dict[str, pa.Array], invalid: dict[int, str]) -> TableBatch:
        """Valid rows and invalid ones, in the file's order."""
        total = valid + len(invalid)
        rows = np.arange(self._count + 1, self._count + 1 + total)
        self._count += total
        if not invalid:
            return TableBatch(self._path, rows, columns)
        is_valid = np.ones(total, bool)
        is_valid[list(invalid)] = False
        places = pa.array(np.cumsum(is_valid) - 1, mask=~is_valid)
        columns = {n: columns[n].take(places) if n in columns else pa.nulls(total, pa.binary()) for n in self._places}
        columns[MALFORMED] = pa.array([invalid.get(row) for row in range(total)], pa.string())
        return TableBatch(self._path, rows, columns)


def _from_latin_1(values: pa.Array) -> pa.Array:
    """The bytes that were parsed as Latin-1."""
    plain = [None if one is None else one.decode().encode("latin-1") for one in values.to_pylist()]
    return pa.array(plain, pa.binary())


def _header(chunk: bytes, delimiter: str, quoting: bool, path: str, name: str) -> list[str]:
    text = decode_utf8(chunk)
    text = chunk.decode("latin-1") if text is None else text
    quotes: dict[str, Any] = {} if quoting else {"quoting": csv.QUOTE_NONE}
    csv.field_size_limit(LARGEST_RECORD)
    try:
        header: list[str] = next(
            (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **quotes) if row), []
        )
    except csv.Error as error:
        raise unreadable(f"table `{name}`: {path}", error) from error
    return header


def _utf8(stream: Any, encoding: str) -> Any:
    """`stream` as UTF-8 without a byte order mark; bytes that its encoding does not know stay no UTF-8."""
    source = io.BufferedReader(_Readable(stream))
    start = source.peek(4)[:4]
    plain = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    if plain and start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        plain, encoding = False, "utf-16"
    if plain:
        if start[:3] == codecs.BOM_UTF8:
            source.read(3)
        return source
    return _Recoded(source, encoding)


class _Recoded:
    """Reads a text in any encoding as UTF-8."""

    def __init__(self, source: Any, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")

    def read(self, size: int) -> bytes:
        """As of a file."""
        while True:
            data = self._source.read(size)
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text.removeprefix("\ufeff").encode(errors="surrogateescape")


def unpacked(raw: Any, path: str) -> Any:
    """The content of an open file that is packed as its name says."""
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if path.endswith(".bz2"):
        return bz2.BZ2File(raw)
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd") if path.endswith(".zst") else raw


class _Readable(io.RawIOBase):
    """Gives `io.BufferedReader` what it asks of a stream, over Beam's file handles."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(data)] = data
        return len(data)


class ReadTable(beam.PTransform):
    """Files of one table → `TableBatch`es, each row group or text file read once, on whatever worker takes it."""

    def __init__(self, files: list[str], name: str, table: Table | None = None, only: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._files, self._name, self._table, self._only = files, name, table or Table(), only

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[TableBatch]:
        return (
            pipeline
            | "Files" >> beam.Create(self._files)
            | "Split" >> beam.FlatMap(split_file, self._name)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(read_piece, self._name, self._table, self._only)
        )
