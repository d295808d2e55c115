"""What `HistoryGen` does on Beam: one shuffle by bucket of users, then whole buckets at a time."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS as CATALOGUE_SPLITS
from components.columns import Columns, take
from components.contract import counts
from components.contract.checks import CheckedRows, check_users
from components.contract.files import Spans, find_table
from components.contract.repeated import RepeatedIds
from components.contract.schema import Schema
from components.contract.tables import ReadTable, TableBatch
from components.examples import (
    SPLITS,
    KeyByBucket,
    ReadExamples,
    ReadSplits,
    WriteExamples,
    close_splits,
    declare_splits,
    example_files,
    user_buckets,
)
from components.history_gen.join import BUSY, SPLIT, EncodePieces, Join
from components.history_gen.span_statistics import CatalogueStatistics
from components.history_gen.statistics_table import (
    TABLES,
    USERS,
    CountCatalogue,
    StatisticsSpec,
    WriteCatalogueStatistics,
)
from components.metrics import finish
from components.storage import on_local_disk


class Executor(base_beam_executor.BaseBeamExecutor):
    """Joins impressions with their histories, popularity segments and user profiles."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        source = artifact_utils.get_single_instance(input_dict["impressions"])
        artifact = artifact_utils.get_single_instance(output_dict["examples"])
        table = artifact_utils.get_single_instance(output_dict["statistics_table"])
        declare_splits(artifact, SPLITS)
        declare_splits(table, TABLES)
        schema = Schema.from_json(exec_properties["schema"])
        profile = tuple(schema.users.features("users"))

        pipeline = self._make_beam_pipeline()
        impressions = pipeline | "Impressions" >> ReadSplits(source, SPLITS, SPLIT)
        clicks = (
            impressions
            | "TrainingClicks" >> beam.FlatMap(_training_clicks)
            | "SumClicks" >> beam.CombinePerKey(sum)
            | "Popularity" >> beam.combiners.ToDict()
        )
        buckets = user_buckets(example_files(source))
        grouped = {"impressions": impressions | "ByUser" >> beam.ParDo(KeyByBucket("user_id", buckets))}
        if profile:
            grouped["users"] = self._users(
                pipeline, schema, exec_properties, artifact.uri
            ) | "UsersByBucket" >> beam.ParDo(KeyByBucket("user_id", buckets))
        lag, new_items = schema.policies.ingestion_lag_seconds, exec_properties["new_items"]
        statistics, side_inputs = None, [beam.pvalue.AsSingleton(clicks)]
        if exec_properties["statistics_spec"]:
            statistics = StatisticsSpec(**json.loads(exec_properties["statistics_spec"]), lag=lag, new_items=new_items)
            catalogue = artifact_utils.get_single_instance(input_dict["items"])
            counted = _count_catalogue(pipeline, impressions, catalogue, table, statistics)
            side_inputs.append(beam.pvalue.AsSingleton(counted))
        join = Join(
            exec_properties["history_length"], exec_properties["cold_max_clicks"], profile, new_items, lag, statistics
        )
        encoded = (
            grouped
            | "Group" >> beam.CoGroupByKey()
            | "Join" >> beam.ParDo(join, *side_inputs).with_outputs(BUSY, USERS, *SPLITS)
        )
        encoded[USERS] | "WriteUsers" >> WriteExamples(table, USERS)
        busy = (
            encoded[BUSY]
            | "SpreadBusy" >> beam.Reshuffle()
            | "EncodeBusy" >> beam.ParDo(EncodePieces()).with_outputs(*SPLITS)
        )
        for name in SPLITS:  # not flattened into one: each is then written as it comes, and nothing is kept
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
            busy[name] | f"WriteBusy[{name}]" >> WriteExamples(artifact, name, "examples-of-busy-users")
        finish(pipeline, "HistoryGen", artifact)
        close_splits(artifact)
        close_splits(table)
        if profile:
            counts.check_counts("users", artifact.uri, exec_properties)

    def _users(
        self, pipeline: beam.Pipeline, schema: Schema, exec_properties: dict[str, Any], folder: str
    ) -> beam.PCollection[Columns]:
        spans = Spans(**json.loads(exec_properties["spans"]))
        files = find_table(exec_properties["data"], "users", schema.users, spans)
        if not files:
            raise counts.ContractError(
                f"users.columns names {', '.join(schema.users.columns)}, but {exec_properties['data']} holds no table "
                "`users`. Export it, or remove users from shop.yaml"
            )
        checked = (
            pipeline
            | "Users" >> ReadTable(files, "users", schema.users)
            | "CheckUsers"
            >> beam.ParDo(
                counts.Checked(_CheckUsers(schema)),
                pipeline | "RepeatedUsers" >> RepeatedIds(files, "users", "user_id", schema.users, schema.policies),
            ).with_outputs(counts.REJECTS, counts.TALLY, main="valid")
        )
        sides = (checked[counts.REJECTS], checked[counts.TALLY])
        _ = sides | counts.WriteRowCounts("users", folder)
        # As bytes, like everything that comes out of tf.Examples.
        users: beam.PCollection[Columns] = checked["valid"] | "AsBytes" >> beam.Map(
            lambda valid: {name: values.cast(pa.binary()) for name, values in valid.items()}
        )
        return users


class _CheckUsers:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def __call__(self, batch: TableBatch, others: list[tuple[str, int]]) -> CheckedRows:
        return check_users(batch, self._schema.users, self._schema.policies, others)


def _count_catalogue(
    pipeline: beam.Pipeline,
    impressions: beam.PCollection[Columns],
    catalogue: types.Artifact,
    table: types.Artifact,
    spec: StatisticsSpec,
) -> beam.PCollection[CatalogueStatistics]:
    """Counts all but users, and writes these counts into the exported table."""
    only = ("item_id", *spec.attributes, *spec.dates)
    items = [
        pipeline | f"Items[{name}]" >> ReadExamples(catalogue, name, only=only) for name in CATALOGUE_SPLITS
    ] | "AllItems" >> beam.Flatten()
    counted: beam.PCollection[CatalogueStatistics] = (impressions, items) | "Statistics" >> CountCatalogue(spec)
    counted | "WriteStatistics" >> WriteCatalogueStatistics(table)
    return counted


def _training_clicks(columns: Columns) -> Iterator[tuple[bytes, int]]:
    """Clicks of each item that the training part shows, be it none."""
    clicks: collections.Counter[bytes] = collections.Counter()
    train = take(columns, columns[SPLIT].to_numpy() == 0)
    for item_id, clicked in zip(train["item_id"].to_pylist(), train["clicked"].to_pylist(), strict=True):
        clicks[item_id] += clicked
    yield from clicks.items()
