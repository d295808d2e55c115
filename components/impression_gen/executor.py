"""What `ImpressionGen` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS as CATALOGUE_SPLITS
from components.contract import counts
from components.contract.checks import Good, Rejects, check_impressions
from components.contract.files import Spans, find_table, table_files
from components.contract.tables import ReadTable, TableBatch
from components.examples import (
    SPLITS,
    Columns,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    close_splits,
    declare_counts,
    declare_splits,
    take,
    to_examples,
    user_buckets,
)
from components.impression_gen import splits
from components.metrics import counter, finish
from components.new_items import launched_late

HELD_BACK = "rows held back: the item is launched with the test"
TEST = SPLITS.index("test")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks, splits and writes the impressions."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        artifact = artifact_utils.get_single_instance(output_dict["impressions"])
        declare_splits(artifact, SPLITS)
        catalogue = artifact_utils.get_single_instance(input_dict["items"])
        context = tuple(json.loads(exec_properties["context_features"]))
        split = json.loads(exec_properties["split"])
        fractions = tuple(split["fractions"])
        rejected, counts_file = exec_properties["rejected_folder"], f"{artifact.uri}/counts.json"

        spans = Spans(**json.loads(exec_properties["spans"]))

        pipeline = self._make_beam_pipeline()
        known_items = pipeline | "KnownItems" >> ReadItemIds(catalogue)
        checked = (
            pipeline
            | ReadTable(find_table(exec_properties["data"], "impressions", spans), "impressions", context)
            | "Check"
            >> beam.ParDo(counts.Checked(_Check(context)), known_items).with_outputs(
                counts.REJECTS, counts.TALLY, main="good"
            )
        )
        (checked[counts.REJECTS], checked[counts.TALLY]) | counts.WriteAccount("impressions", rejected, counts_file)
        if split["by"] == "time":
            histogram = (
                checked["good"]
                | "Times" >> beam.Map(lambda good: good["timestamp"].to_numpy())
                | "Histogram" >> beam.CombineGlobally(splits.TimeHistogram())
            )
            placed = checked["good"] | "SplitByTime" >> beam.Map(
                _split_by_time, beam.pvalue.AsSingleton(histogram), fractions
            )
        else:
            buckets = user_buckets(table_files(exec_properties["data"], "impressions", spans))
            placed = (
                checked["good"]
                | "ByUser" >> beam.ParDo(KeyByBucket("user_id", buckets))
                | "Group" >> beam.GroupByKey()
                | "SplitByUser" >> beam.Map(splits.split_users_of_bucket, fractions)
            )
        encoded = placed | "Encode" >> beam.ParDo(_Encode(split["new_items"])).with_outputs(*SPLITS)
        for name in SPLITS:
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
        counted = finish(pipeline, "ImpressionGen", artifact)
        close_splits(artifact)
        tally = counts.read_counts(counts_file)
        counts.settle("impressions", tally, exec_properties["max_rejected_fraction"], rejected)
        if held_back := counted.get(HELD_BACK, 0):
            tally |= {"rows out": tally["rows out"] - held_back, HELD_BACK: held_back}
        declare_counts(artifact, tally)


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
    def __init__(self, context: tuple[str, ...]) -> None:
        self._context = context

    def __call__(self, batch: TableBatch, known_items: set[str]) -> tuple[Good, Rejects]:
        return check_impressions(batch, known_items, self._context)


def _split_by_time(
    good: Columns, histogram: splits.Histogram, fractions: tuple[float, ...]
) -> tuple[Columns, np.ndarray]:
    boundaries = splits.time_boundaries(histogram, fractions)
    return good, splits.split_by_time(good["timestamp"].to_numpy(), boundaries)


class _Encode(beam.DoFn):
    def __init__(self, new_items: int) -> None:
        self._new_items = new_items
        self._held_back = counter(HELD_BACK)

    def process(self, placed: tuple[Columns, np.ndarray]) -> Iterator[Any]:
        columns, split = placed
        too_early = launched_late(columns["item_id"], self._new_items) & (split < TEST)
        self._held_back.inc(int(too_early.sum()))
        for code, name in enumerate(SPLITS):
            rows = (split == code) & ~too_early
            if np.any(rows):
                yield beam.pvalue.TaggedOutput(name, to_examples(take(columns, rows)))
