"""Writes a snapshot's shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io import fileio
from apache_beam.transforms.window import GlobalWindows

from components.metrics import counter
from components.sharded_files import write_sharded

ROWS_A_GROUP = 16_384


class WriteShards(beam.PTransform):
    """Tables → Parquet files, one for each bundle of work, by the worker that made the tables.

    Args:
        folder: Of the files.
        name: Their names begin with.
        unfinished: As `write_sharded` takes it.
    """

    def __init__(self, folder: str, name: str, unfinished: str) -> None:
        super().__init__()
        self._folder, self._name, self._unfinished = folder, name, unfinished

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection:
        gathered = tables | "Gather" >> beam.ParDo(_Gather(ROWS_A_GROUP))
        name = f"shard-{self._name}"
        return gathered | "Write" >> write_sharded(self._folder, name, ".parquet", self._unfinished, _Sink)


class _Gather(beam.DoFn):
    """Small tables → tables of at least `rows` rows: each becomes a row group of the snapshot."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def start_bundle(self) -> None:
        self._waiting: list[pa.Table] = []
        self._count = 0

    def process(self, table: pa.Table) -> Iterator[pa.Table]:
        self._waiting.append(table)
        self._count += table.num_rows
        if self._count >= self._rows:
            yield pa.concat_tables(self._waiting).combine_chunks()
            self.start_bundle()

    def finish_bundle(self) -> Iterator[Any]:
        if self._waiting:
            yield GlobalWindows.windowed_value(pa.concat_tables(self._waiting).combine_chunks())


class _Sink(fileio.FileSink):
    """A file that is being written; every table of it has one and the same schema."""

    def open(self, handle: Any) -> None:
        self._handle = handle
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._handle, table.schema, compression="none")
        self._writer.write_table(table)
        counter("records written").inc(table.num_rows)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.close()
        counter("bytes written").inc(self._handle.tell())
