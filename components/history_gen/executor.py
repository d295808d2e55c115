"""What `HistoryGen` does on Beam: one shuffle by bucket of users, then whole buckets at a time."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.contract import counts
from components.contract.checks import check_users
from components.contract.tables import ReadTable, find_table
from components.examples import (
    SPLITS,
    Columns,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    concatenate,
    declare_splits,
    take,
    to_examples,
)
from components.history_gen.point_in_time import SEGMENTS, point_in_time_histories, segments, tail_limit

USER_BUCKETS = 64
SPLIT = "__split__"
ENCODE_ROWS = 4_096


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
        grouped = {"impressions": impressions | "ByUser" >> beam.ParDo(KeyByBucket("user_id", USER_BUCKETS))}
        if profile:
            grouped["users"] = self._users(
                pipeline, profile, exec_properties, counts_file
            ) | "UsersByBucket" >> beam.ParDo(KeyByBucket("user_id", USER_BUCKETS))
        encoded = (
            grouped
            | "Group" >> beam.CoGroupByKey()
            | "Join"
            >> beam.ParDo(
                _Join(exec_properties["history_length"], exec_properties["cold_max_clicks"], profile),
                beam.pvalue.AsSingleton(clicks),
            ).with_outputs(*SPLITS)
        )
        for name in SPLITS:
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
        pipeline.run().wait_until_finish()
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
            >> beam.ParDo(counts.Checked(functools.partial(check_users, profile=profile))).with_outputs(
                counts.REJECTS, counts.TALLY, main="good"
            )
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


class _Join(beam.DoFn):
    """(bucket, impressions and users of the bucket) + training clicks → serialised ranking examples, by split."""

    def __init__(self, history_length: int, cold_max_clicks: int, profile: tuple[str, ...]) -> None:
        self._length, self._cold, self._profile = history_length, cold_max_clicks, profile

    def process(self, group: tuple[int, dict[str, Iterable[Columns]]], clicks: dict[bytes, int]) -> Iterator[Any]:
        if not (batches := list(group[1]["impressions"])):
            return
        columns = concatenate(batches)
        encoded_user = columns["user_id"].dictionary_encode()
        user = encoded_user.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        timestamp, sequence, clicked = (
            columns[name].to_numpy(zero_copy_only=False) for name in ("timestamp", "sequence", "clicked")
        )
        histories = point_in_time_histories(user, timestamp, sequence, clicked, self._length)
        offsets = pa.array(histories.offsets.astype(np.int32))
        owner = np.repeat(np.arange(len(user)), np.diff(histories.offsets))
        columns["history_item_ids"] = pa.ListArray.from_arrays(
            offsets, columns["item_id"].take(pa.array(histories.clicks))
        )
        columns["history_ages"] = pa.ListArray.from_arrays(
            offsets, pa.array(timestamp[owner] - timestamp[histories.clicks])
        )
        columns["segment"] = self._segments(columns["item_id"], clicks)
        for name, values in self._profiles(encoded_user, list(group[1].get("users", ()))).items():
            columns[name] = values
        split = columns.pop(SPLIT).to_numpy()
        for code, name in enumerate(SPLITS):
            rows = np.flatnonzero(split == code)
            for begin in range(0, len(rows), ENCODE_ROWS):
                yield beam.pvalue.TaggedOutput(name, to_examples(take(columns, rows[begin : begin + ENCODE_ROWS])))

    def _segments(self, item_id: pa.Array, clicks: dict[bytes, int]) -> pa.Array:
        limit = tail_limit(np.fromiter(clicks.values(), np.int64, len(clicks)))
        items = item_id.dictionary_encode()
        popularity = np.array([clicks.get(item, 0) for item in items.dictionary.to_pylist()], np.int64)
        code = segments(popularity, self._cold, limit)[items.indices.to_numpy(zero_copy_only=False)]
        return pa.array([name.encode() for name in SEGMENTS], pa.binary()).take(pa.array(code))

    def _profiles(self, user: pa.DictionaryArray, batches: list[Columns]) -> Columns:
        if not self._profile:
            return {}
        known = concatenate(batches) if batches else {}
        place = {value: row for row, value in enumerate(known["user_id"].to_pylist())} if known else {}
        rows = pa.array([place.get(value) for value in user.dictionary.to_pylist()], pa.int64()).take(user.indices)
        return {
            name: known[name].take(rows).fill_null(b"") if known else pa.array([b""] * len(user), pa.binary())
            for name in self._profile
        }
