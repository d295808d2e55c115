"""What `HistoryGen` does on Beam: one shuffle by bucket of users, then whole buckets at a time."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.contract import counts
from components.contract.checks import check_users
from components.contract.files import find_table
from components.contract.repeated import RepeatedIds
from components.contract.tables import ReadTable
from components.examples import (
    SPLITS,
    Columns,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    close_splits,
    declare_splits,
    example_files,
    take,
    user_buckets,
)
from components.history_gen.join import BUSY, SPLIT, EncodePieces, Join
from components.metrics import finish


class Executor(base_beam_executor.BaseBeamExecutor):
    """Joins impressions with their histories, popularity segments and user profiles."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        source = artifact_utils.get_single_instance(input_dict["impressions"])
        artifact = artifact_utils.get_single_instance(output_dict["examples"])
        declare_splits(artifact, SPLITS)
        profile = tuple(json.loads(exec_properties["user_features"]))
        counts_file = f"{artifact.uri}/counts.json"

        pipeline = self._make_beam_pipeline()
        impressions = [
            pipeline | f"Read[{name}]" >> ReadExamples(source, name) | f"Mark[{name}]" >> beam.Map(_mark_split, code)
            for code, name in enumerate(SPLITS)
        ] | beam.Flatten()
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
                pipeline, profile, exec_properties, counts_file
            ) | "UsersByBucket" >> beam.ParDo(KeyByBucket("user_id", buckets))
        join = Join(
            exec_properties["history_length"], exec_properties["cold_max_clicks"], profile, exec_properties["new_items"]
        )
        encoded = (
            grouped
            | "Group" >> beam.CoGroupByKey()
            | "Join" >> beam.ParDo(join, beam.pvalue.AsSingleton(clicks)).with_outputs(BUSY, *SPLITS)
        )
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
        if profile:
            tally = counts.read_counts(counts_file)
            counts.settle("users", tally, exec_properties["max_rejected_fraction"], exec_properties["rejected_folder"])

    def _users(
        self, pipeline: beam.Pipeline, profile: tuple[str, ...], exec_properties: dict[str, Any], counts_file: str
    ) -> beam.PCollection[Columns]:
        files = find_table(exec_properties["data"], "users")
        if not files:
            raise counts.ContractError(
                f"data.user_features names {', '.join(profile)}, but {exec_properties['data']} holds no table `users`"
            )
        checked = (
            pipeline
            | "Users" >> ReadTable(files, "users", profile)
            | "CheckUsers"
            >> beam.ParDo(
                counts.Checked(functools.partial(check_users, profile=profile)),
                pipeline | "RepeatedUsers" >> RepeatedIds(files, "users", "user_id"),
            ).with_outputs(counts.REJECTS, counts.TALLY, main="good")
        )
        sides = (checked[counts.REJECTS], checked[counts.TALLY])
        _ = sides | counts.WriteAccount("users", exec_properties["rejected_folder"], counts_file)
        # As bytes, like everything that comes out of tf.Examples.
        users: beam.PCollection[Columns] = checked["good"] | "AsBytes" >> beam.Map(
            lambda good: {name: values.cast(pa.binary()) for name, values in good.items()}
        )
        return users


def _mark_split(columns: Columns, code: int) -> Columns:
    rows = len(columns["user_id"])
    return {**columns, SPLIT: pa.array(np.full(rows, code, np.int64))}


def _training_clicks(columns: Columns) -> Iterator[tuple[bytes, int]]:
    """Clicks of each item that the training part shows, be it none."""
    clicks: collections.Counter[bytes] = collections.Counter()
    train = take(columns, columns[SPLIT].to_numpy() == 0)
    for item_id, clicked in zip(train["item_id"].to_pylist(), train["clicked"].to_pylist(), strict=True):
        clicks[item_id] += clicked
    yield from clicks.items()
