"""Rows that repeat another one: by their id in `items` and `users`, in everything in `impressions`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from components.columns import Columns, ranks, take
from components.contract.schema import Policies, Table
from components.contract.tables import ReadTable, TableBatch
from components.contract.values import parse_ids


class RepeatedIds(beam.PTransform):
    """A table → a side input: the set of (file, row) of every row in whose place another one of its id is kept.

    The ids are read by themselves: it takes little memory, and the other columns then need no shuffle.

    Args:
        files: Files of the table, the latest last.
        name: Name of the table.
        column: Name of the id column.
        table: How its columns are read.
        policies: Which row is kept: by the order of `files`, then by row.
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
            | "Others" >> beam.FlatMap(_all_but_one, {file: n for n, file in enumerate(self._files)}, self._latest)
            | "Together" >> beam.combiners.ToSet()
        )
        return beam.pvalue.AsSingleton(others)


def _rows_by_id(batch: TableBatch, column: str) -> Iterator[tuple[str, tuple[str, int]]]:
    ids = parse_ids(batch.columns[column]).values
    for found, row in zip(ids.to_pylist(), batch.rows, strict=True):
        if found is not None:
            yield found, (batch.file, int(row))


class RepeatedRows(beam.PTransform):
    """A table → a side input: the set of (file, row) of every row that agrees with an earlier one in these columns.

    Args:
        files: Files of the table, the latest last.
        name: Name of the table.
        columns: Names of the columns.
        table: How its columns are read.
    """

    def __init__(self, files: list[str], name: str, columns: tuple[str, ...], table: Table) -> None:
        super().__init__()
        self._files, self._name, self._columns, self._table = files, name, columns, table

    def expand(self, pipeline: beam.Pipeline) -> beam.pvalue.AsSingleton:
        others = (
            pipeline
            | "AllRows" >> ReadTable(self._files, self._name, self._table)
            | "Digests" >> beam.FlatMap(_rows_by_digest, self._columns)
            | "SameRows" >> beam.GroupByKey()
            | "OtherRows" >> beam.FlatMap(_all_but_one, {file: n for n, file in enumerate(self._files)}, False)
            | "RowsTogether" >> beam.combiners.ToSet()
        )
        return beam.pvalue.AsSingleton(others)


def _rows_by_digest(batch: TableBatch, columns: tuple[str, ...]) -> Iterator[tuple[bytes, tuple[str, int]]]:
    values = [batch.columns[name].to_pylist() for name in columns if name in batch.columns]
    for row, own in zip(batch.rows, zip(*values, strict=True), strict=True):
        yield hashlib.blake2b(repr(own).encode(), digest_size=16).digest(), (batch.file, int(row))


def _all_but_one(
    group: tuple[str, Iterable[tuple[str, int]]], place: dict[str, int], latest: bool
) -> list[tuple[str, int]]:
    rows = sorted(group[1], key=lambda one: (place[one[0]], one[1]))
    return rows[:-1] if latest else rows[1:]


def merge_repeated(columns: Columns, labels: Iterable[str]) -> tuple[Columns, int]:
    """Impressions without those that agree with another one in all but their labels; and how many these were.

    The one that is kept has each label that any of them has: a day that was delivered again may know more clicks.  The
    order of the rows does not matter.

    Args:
        columns: All impressions of their users.
        labels: Columns of 0 and 1.
    """
    labels = tuple(labels)
    keys = [ranks(values) for name, values in sorted(columns.items()) if name not in labels]
    order = np.lexsort(keys)
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    begins = np.flatnonzero(new)
    kept = take(columns, order[begins])
    for name in labels:
        values = columns[name].to_numpy(zero_copy_only=False)[order]
        kept[name] = pa.array(np.maximum.reduceat(values, begins) if len(begins) else values)
    return kept, len(order) - len(begins)
