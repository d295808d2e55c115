"""Statistics on Beam: the counts of the catalogue as a side input, and the table that a ranker is served with."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tfx.types import Artifact

from components.columns import Columns, concatenate, matrix_to_lists
from components.examples import WriteExamples, to_examples
from components.history_gen.span_statistics import (
    FIELDS,
    Activity,
    CatalogueStatistics,
    ItemAttributes,
    SpanCounts,
    UserStatistics,
)
from components.new_items import launched_late

CLICKED_AT = "clicked_at"
ITEMS, VALUES, USERS = TABLES = ("items", "values", "users")  # splits of the exported table
ROWS = 4_096
COUNTS, DATES = "counts", "dates"
_SUMS: list[Any] = [("impressions", "sum"), ("clicks", "sum"), ("last_click", "max")]


@dataclass(frozen=True)
class StatisticsSpec:
    """What is counted.

    Attributes:
        attributes: Kind of each item attribute, by name: `categorical`, `number` or `list`.
        seconds: Of a span.
        lag: Seconds until an impression or a click is known.
        new_items: One item in so many is launched only with the test, and is not counted; 0 for none.
        dates: Names of the dates of items.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    seconds: int = 86_400
    lag: int = 0
    new_items: int = 0
    dates: tuple[str, ...] = ()

    def activity(self, columns: Columns) -> Activity:
        """The activity of rows of impressions."""
        clicked, timestamp, clicked_at = (
            columns[name].to_numpy(zero_copy_only=False)
            for name in ("clicked", "timestamp", CLICKED_AT if CLICKED_AT in columns else "timestamp")
        )
        activity = Activity.of_impressions(timestamp, clicked, clicked_at, self.seconds, self.lag)
        if not self.new_items:
            return activity
        late = launched_late(columns["item_id"], self.new_items)
        return activity.take(np.flatnonzero(~late[activity.row]))


class CountCatalogue(beam.PTransform):
    """(Columns of impressions, columns of the catalogue) → one `CatalogueStatistics`."""

    def __init__(self, spec: StatisticsSpec) -> None:
        super().__init__()
        self._spec = spec

    def expand(
        self, inputs: tuple[beam.PCollection[Columns], beam.PCollection[Columns]]
    ) -> beam.PCollection[CatalogueStatistics]:
        impressions, items = inputs
        table = (
            impressions
            | "Activity" >> beam.Map(_activity_of_items, self._spec)
            | "SumActivity" >> beam.CombineGlobally(_SumTables())
        )
        catalogue = items | "Items" >> beam.combiners.ToList()
        return table | "Count" >> beam.Map(_catalogue_statistics, beam.pvalue.AsSingleton(catalogue), self._spec)


def _activity_of_items(columns: Columns, spec: StatisticsSpec) -> pa.Table:
    activity = spec.activity(columns)
    counts = {"span": activity.span, **{name: getattr(activity, name) for name in FIELDS}}
    item_id = columns["item_id"].cast(pa.binary()).take(pa.array(activity.row))
    return _sum_table(pa.table({"item_id": item_id, **counts}))


def _sum_table(table: pa.Table) -> pa.Table:
    summed = table.group_by(["item_id", "span"]).aggregate(_SUMS)
    return summed.rename_columns([name.removesuffix("_sum").removesuffix("_max") for name in summed.column_names])


class _SumTables(beam.CombineFn):
    """Sums tables by item and span.

    An accumulator is a list of tables, the first of them larger than all others together; they are summed when these
    have grown as large.
    """

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, accumulator: list[pa.Table], table: pa.Table) -> list[pa.Table]:
        return self._packed([*accumulator, table])

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return self._packed([table for accumulator in accumulators for table in accumulator])

    def extract_output(self, accumulator: list[pa.Table]) -> pa.Table:
        if accumulator:
            return _sum_table(pa.concat_tables(accumulator))
        return _sum_table(
            pa.table({"item_id": pa.array([], pa.binary()), **{n: pa.array([], pa.int64()) for n in ("span", *FIELDS)}})
        )

    @staticmethod
    def _packed(tables: list[pa.Table]) -> list[pa.Table]:
        if sum(map(len, tables)) < 2 * max(map(len, tables), default=0):
            return sorted(tables, key=len, reverse=True)
        return [_sum_table(pa.concat_tables(tables))] if tables else []


def _catalogue_statistics(table: pa.Table, items: list[Columns], spec: StatisticsSpec) -> CatalogueStatistics:
    columns = concatenate(items) if items else {"item_id": pa.array([], pa.binary())}
    columns = {n: one if pa.types.is_integer(one.type) else one.cast(pa.binary()) for n, one in columns.items()}
    attributes = ItemAttributes.of_items(columns, spec.attributes, spec.dates)
    return CatalogueStatistics.of_activity(table, attributes, spec.seconds, time.time())


class WriteCatalogueStatistics(beam.PTransform):
    """`CatalogueStatistics` → splits `items` and `values` of the exported table.

    `items` has `item_id`, `counts` (impressions, clicks, last click; int64 [3]), `dates` and each attribute's values;
    `values` has `attribute`, `value`, `counts` and `as_of` (seconds, the end of the last completed span), and one row
    without an attribute for the counts of all.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self._artifact = artifact

    def expand(self, statistics: beam.PCollection[CatalogueStatistics]) -> None:
        _ = statistics | "ItemRows" >> beam.FlatMap(_item_rows) | "WriteItems" >> WriteExamples(self._artifact, ITEMS)
        values = statistics | "ValueRows" >> beam.FlatMap(_value_rows)
        _ = values | "WriteValues" >> WriteExamples(self._artifact, VALUES)


def _item_rows(statistics: CatalogueStatistics) -> Iterator[list[bytes]]:
    attributes = statistics.attributes
    for begin in range(0, len(attributes.item_ids), ROWS):
        rows = np.arange(begin, min(begin + ROWS, len(attributes.item_ids)))
        columns = {
            "item_id": attributes.item_ids.take(pa.array(rows)),
            COUNTS: matrix_to_lists(statistics.items.as_of(rows, np.full(len(rows), statistics.end))),
        }
        if attributes.dates:
            columns[DATES] = matrix_to_lists(np.stack([one[rows] for one in attributes.dates.values()], axis=1))
        for name, values in attributes.values.items():
            codes, begins = attributes.lists_of(name, rows)
            columns[f"{name}_values"] = _value_lists(values, codes, begins)
        yield to_examples(columns)


def _value_rows(statistics: CatalogueStatistics) -> Iterator[list[bytes]]:
    named = [("", [""], statistics.overall)]
    named += [(name, values, statistics.values[name]) for name, values in statistics.attributes.values.items()]
    for name, values, counts in named:
        if values:
            found = counts.as_of(np.arange(len(values)), np.full(len(values), statistics.end))
            columns = {"attribute": pa.array([name] * len(values)), "value": pa.array(values)}
            as_of = pa.array(np.full(len(values), statistics.end * statistics.seconds))
            yield to_examples({**columns, COUNTS: matrix_to_lists(found), "as_of": as_of})


def user_rows(statistics: UserStatistics, user_ids: pa.Array) -> Iterator[list[bytes]]:
    """Split `users` of the exported table: `user_id`, `counts`, and for each attribute `NAME_values` and their
    `NAME_counts`, three each.

    Args:
        statistics: Of the users.
        user_ids: binary, by code.
    """
    catalogue = statistics.catalogue
    everyone = np.arange(len(user_ids))
    counts = statistics.users.as_of(everyone, np.full(len(everyone), catalogue.end))
    active = counts[:, :2].any(axis=1)
    users = np.flatnonzero(active)
    if not len(users):
        return
    columns = {"user_id": user_ids.take(pa.array(users)), COUNTS: matrix_to_lists(counts[users])}
    for name, values in catalogue.attributes.values.items():
        pairs, counts_of_pairs = latest(statistics.pairs[name], catalogue.end)
        begins = np.searchsorted(pairs, np.append(users, len(user_ids)) * max(len(values), 1))
        begins[-1] = len(pairs)  # a pair is of an active user
        columns[f"{name}_values"] = _value_lists(values, pairs % max(len(values), 1), begins)
        columns[f"{name}_counts"] = pa.ListArray.from_arrays(
            pa.array((begins * len(FIELDS)).astype(np.int32)), pa.array(counts_of_pairs.reshape(-1))
        )
    yield to_examples(columns)


def latest(counts: SpanCounts, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(Keys with counts before span `end`, their counts)."""
    keys = counts.keys()
    found = counts.as_of(keys, np.full(len(keys), end))
    some = found[:, :2].any(axis=1)
    return keys[some], found[some]


def _value_lists(values: list[str], codes: np.ndarray, begins: np.ndarray) -> pa.ListArray:
    names = pa.array([value.encode() for value in values], pa.binary())
    return pa.ListArray.from_arrays(pa.array(begins.astype(np.int32)), names.take(pa.array(codes)))
