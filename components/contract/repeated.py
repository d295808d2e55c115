"""Rows whose id another row of the table has too: one of them is kept, wherever they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam

from components.contract.schema import Policies, Table
from components.contract.tables import ReadTable, TableBatch
from components.contract.values import parse_ids


class RepeatedIds(beam.PTransform):
    """A table → a side input: the set of (file, row) of every row in whose place another one of its id is kept.

    The ids are read by themselves: it takes little memory, and the other columns then need no shuffle.

    Args:
        files: Files of the table.
        name: Name of the table.
        column: Name of the id column.
        table: How its columns are read.
        policies: Which row is kept: by file, then by row.
    """

    def __init__(self, files: list[str], name: str, column: str, table: Table, policies: Policies) -> None:
        super().__init__()
        self._files, self._name, self._column, self._table = files, name, column, table
        self._latest = policies.repeated_ids == "latest"

    def expand(self, pipeline: beam.Pipeline) -> beam.pvalue.AsSingleton:
        others = (
            pipeline
            | "Ids" >> ReadTable(self._files, self._name, self._table, only=(self._column,))
            | "Rows" >> beam.FlatMap(_rows_by_id, self._column)
            | "SameId" >> beam.GroupByKey()
            | "Others" >> beam.FlatMap(_all_but_one, self._latest)
            | "Together" >> beam.combiners.ToSet()
        )
        return beam.pvalue.AsSingleton(others)


def _rows_by_id(batch: TableBatch, column: str) -> Iterator[tuple[str, tuple[str, int]]]:
    ids = parse_ids(batch.columns[column]).values
    for found, row in zip(ids.to_pylist(), batch.rows, strict=True):
        if found is not None:
            yield found, (batch.file, int(row))


def _all_but_one(group: tuple[str, Iterable[tuple[str, int]]], latest: bool) -> list[tuple[str, int]]:
    rows = sorted(group[1])
    return rows[:-1] if latest else rows[1:]
