"""What `ImpressionGen` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components import splits
from components.catalogue_gen.executor import SPLITS as CATALOGUE_SPLITS
from components.columns import Columns, concatenate, take
from components.contract import counts
from components.contract.checks import REPEATED, CheckedRows, check_impressions
from components.contract.events import check_events, impressions_of_users
from components.contract.files import Spans, find_files, span_files
from components.contract.repeated import merge_repeated
from components.contract.schema import EventTable, Schema
from components.contract.tables import ContractError, ReadTable, TableBatch
from components.contract.values import MICROS
from components.examples import (
    SPLITS,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    close_splits,
    declare_counts,
    declare_splits,
    to_examples,
    user_buckets,
)
from components.metrics import counter, finish
from components.new_items import launched_late
from components.storage import on_local_disk

HELD_BACK = "rows held back: the item is launched with the test"
ROWS_OF_SPLIT = "rows of split "
LATE, EARLY = "of a date before that of the span", "of a date after that of the span"
TEST, DAY = SPLITS.index("test"), 86_400


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks, splits and writes the impressions."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        artifact = artifact_utils.get_single_instance(output_dict["impressions"])
        declare_splits(artifact, SPLITS)
        catalogue = artifact_utils.get_single_instance(input_dict["items"])
        schema = Schema.from_json(exec_properties["schema"])
        log = schema.log
        split = json.loads(exec_properties["split"])
        fractions = tuple(split["fractions"])
        spans = Spans(**json.loads(exec_properties["spans"]))

        pipeline = self._make_beam_pipeline()
        known_items = pipeline | "KnownItems" >> ReadItemIds(catalogue)
        files = find_files(exec_properties["data"], log, schema.table(log), spans)
        read = span_files(exec_properties["data"], log, schema.table(log), spans)
        buckets = user_buckets(files)
        checked = (
            pipeline
            | ReadTable([meta.path for meta in files], log, schema.table(log))
            | "Check"
            >> beam.ParDo(counts.Checked(_Check(schema, read.days() if read else {})), known_items).with_outputs(
                counts.REJECTS, counts.TALLY, main="valid"
            )
        )
        valid, tally_parts = checked["valid"], [checked[counts.TALLY]]
        of_user: beam.DoFn | None = None
        if schema.events is not None:
            of_user = _JoinEvents(schema.events)
        elif schema.policies.repeated_rows == "drop":
            of_user = _MergeRepeated(schema.labels)
        if of_user is not None:
            made = (
                valid
                | "ByUser" >> beam.ParDo(KeyByBucket("user_id", buckets))
                | "Group" >> beam.GroupByKey()
                | "OfUser" >> beam.ParDo(of_user).with_outputs(counts.TALLY, main="valid")
            )
            valid = made["valid"]
            tally_parts.append(made[counts.TALLY])
        row_counts = tally_parts | "AllCounts" >> beam.Flatten()
        (checked[counts.REJECTS], row_counts) | counts.WriteRowCounts(log, artifact.uri)
        placed = valid | "Split" >> _Split(split["by"], fractions, buckets)
        encoded = placed | "Encode" >> beam.ParDo(_Encode(split["new_items"])).with_outputs(*SPLITS)
        for name in SPLITS:
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
        counted = finish(pipeline, "ImpressionGen", artifact)
        close_splits(artifact)
        tally = counts.check_counts(log, artifact.uri, exec_properties) | (read.counts() if read else {})
        if read and read.missing:
            logging.warning("table %s: %d days have no files: %s", log, len(read.missing), ", ".join(read.missing))
        if empty := [name for name in SPLITS if not counted.get(ROWS_OF_SPLIT + name)]:
            raise ContractError(
                f"table `{log}`: no row is left for {' and '.join(empty)}, with data.split.by: {split['by']} and "
                f"data.split.fractions: {list(fractions)}. Rows of one second stay together, so that times that are "
                "only days may leave a split without rows: give finer times, other fractions, or split by user"
            )
        if held_back := counted.get(HELD_BACK, 0):
            tally |= {"rows out": tally["rows out"] - held_back, HELD_BACK: held_back}
        declare_counts(artifact, tally)


class _Split(beam.PTransform):
    """Valid rows → (rows, the code of each row's split)."""

    def __init__(self, by: str, fractions: tuple[float, ...], buckets: int) -> None:
        super().__init__()
        self._by, self._fractions, self._buckets = by, fractions, buckets

    def expand(self, valid: beam.PCollection[Columns]) -> beam.PCollection[tuple[Columns, np.ndarray]]:
        if self._by == "time":
            boundaries = (
                valid
                | "Times" >> beam.Map(lambda valid: valid["timestamp"].to_numpy())
                | "Histogram" >> beam.CombineGlobally(splits.TimeHistogram())
                | "Boundaries" >> beam.Map(splits.time_boundaries, self._fractions)
            )
            return valid | "SplitByTime" >> beam.Map(_split_by_time, beam.pvalue.AsSingleton(boundaries))
        return (
            valid
            | "ByUser" >> beam.ParDo(KeyByBucket("user_id", self._buckets))
            | "Group" >> beam.GroupByKey()
            | "SplitByUser" >> beam.Map(splits.split_users_of_bucket, self._fractions)
        )


class ReadItemIds(beam.PTransform):
    """A catalogue's Examples → a side input: the set of its item ids."""

    def __init__(self, catalogue: types.Artifact) -> None:
        super().__init__()
        self._catalogue = catalogue

    def expand(self, pipeline: beam.Pipeline) -> beam.pvalue.AsSingleton:
        ids = [
            pipeline
            | f"Read[{split}]" >> ReadExamples(self._catalogue, split, only=("item_id",))
            | f"Ids[{split}]" >> beam.Map(lambda columns: {value.decode() for value in columns["item_id"].to_pylist()})
            for split in CATALOGUE_SPLITS
        ]
        return beam.pvalue.AsSingleton(ids | beam.Flatten() | "Union" >> beam.CombineGlobally(_union))


def _union(sets: Any) -> set[str]:
    return set().union(*sets)


class _Check:
    """Checks batches of the log; counts rows whose date (UTC) is not that of the span that they were delivered in.

    Args:
        schema: Of the tables.
        days: Days from 1970 to the date of each file's span.
    """

    def __init__(self, schema: Schema, days: dict[str, int]) -> None:
        self._schema, self._days = schema, days

    def __call__(self, batch: TableBatch, known_items: set[str]) -> CheckedRows:
        schema = self._schema
        if schema.events is not None:
            checked = check_events(batch, schema.events, schema.policies, known_items)
            seconds = checked.valid["micros"].to_numpy(zero_copy_only=False) // MICROS
        else:
            checked = check_impressions(batch, schema.impressions, schema.policies, known_items)
            seconds = checked.valid["timestamp"].to_numpy(zero_copy_only=False)
        if (day := self._days.get(batch.file)) is not None:
            for reason, rows in ((LATE, seconds < day * DAY), (EARLY, seconds >= (day + 1) * DAY)):
                if rows.any():
                    checked.noted[reason] += int(rows.sum())
        return checked


class _JoinEvents(beam.DoFn):
    """(bucket, its users' events) → their impressions; the events that are none go to the counts."""

    def __init__(self, table: EventTable) -> None:
        self._table = table

    def process(self, group: tuple[int, Iterable[Columns]]) -> Iterator[Any]:
        columns, dropped = impressions_of_users(concatenate(group[1]), self._table)
        if len(columns["user_id"]):
            yield columns
        for reason, count in dropped.items():
            yield beam.pvalue.TaggedOutput(counts.TALLY, (counts.DROPPED + reason, count))
            yield beam.pvalue.TaggedOutput(counts.TALLY, (counts.ROWS_OUT, -count))


class _MergeRepeated(beam.DoFn):
    """(bucket, its users' impressions) → those that repeat no other one; the counts get how many do."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels

    def process(self, group: tuple[int, Iterable[Columns]]) -> Iterator[Any]:
        columns, repeated = merge_repeated(concatenate(group[1]), self._labels)
        yield columns
        if repeated:
            yield beam.pvalue.TaggedOutput(counts.TALLY, (counts.DROPPED + REPEATED, repeated))
            yield beam.pvalue.TaggedOutput(counts.TALLY, (counts.ROWS_OUT, -repeated))


def _split_by_time(valid: Columns, boundaries: tuple[int, int]) -> tuple[Columns, np.ndarray]:
    return valid, splits.split_by_time(valid["timestamp"].to_numpy(), boundaries)


class _Encode(beam.DoFn):
    def __init__(self, new_items: int) -> None:
        self._new_items = new_items
        self._held_back = counter(HELD_BACK)
        self._rows = {name: counter(ROWS_OF_SPLIT + name) for name in SPLITS}

    def process(self, placed: tuple[Columns, np.ndarray]) -> Iterator[Any]:
        columns, split = placed
        too_early = launched_late(columns["item_id"], self._new_items) & (split < TEST)
        self._held_back.inc(int(too_early.sum()))
        for code, name in enumerate(SPLITS):
            rows = (split == code) & ~too_early
            if np.any(rows):
                self._rows[name].inc(int(rows.sum()))
                yield beam.pvalue.TaggedOutput(name, to_examples(take(columns, rows)))
