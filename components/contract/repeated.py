"""Rows whose id another row of the table has too: the first by file and row is kept, wherever they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam

from components.contract.tables import ReadTable, TableBatch


class RepeatedIds(beam.PTransform):
    """A table → a side input: (file, row) of every row whose id an earlier one has.

    The ids are read by themselves: it takes little memory, and the other columns then need no shuffle.

    Args:
        files: Of the table.
        table: Its name.
        column: Of the ids.
    """

    def __init__(self, files: list[str], table: str, column: str) -> None:
        super().__init__()
        self._files, self._table, self._column = files, table, column

    def expand(self, pipeline: beam.Pipeline) -> beam.pvalue.AsList:
        later = (
            pipeline
            | "Ids" >> ReadTable(self._files, self._table, only=(self._column,))
            | "Places" >> beam.FlatMap(_places, self._column)
            | "SameId" >> beam.GroupByKey()
            | "Later" >> beam.FlatMap(_all_but_first)
        )
        return beam.pvalue.AsList(later)


def _places(batch: TableBatch, column: str) -> Iterator[tuple[str, tuple[str, int]]]:
    for found, row in zip(batch.columns[column].to_pylist(), batch.rows, strict=True):
        if found is not None:
            yield str(found).strip(), (batch.file, int(row))


def _all_but_first(group: tuple[str, Iterable[tuple[str, int]]]) -> list[tuple[str, int]]:
    return sorted(group[1])[1:]
