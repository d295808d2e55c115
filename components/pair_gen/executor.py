"""What `PairGen` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS as PAIR_SPLITS
from components.columns import Columns, concatenate, hash_buckets, ranks, take
from components.contract import counts
from components.contract.checks import INTENT_COLUMNS, CheckedRows, check_intents
from components.contract.files import Spans, find_table
from components.contract.repeated import RepeatedRows
from components.contract.schema import Policies, Schema
from components.contract.tables import ContractError, ReadTable, TableBatch
from components.examples import (
    SPLITS,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    close_splits,
    declare_counts,
    declare_splits,
    example_files,
    to_examples,
    user_buckets,
)
from components.impression_gen.executor import ReadItemIds
from components.metrics import finish
from components.pair_gen.history_pairs import history_pairs
from components.pair_gen.impression_pairs import impression_pairs
from components.storage import on_local_disk

VALID_BUCKETS, BUCKETS = 10, 100
NO_END = 2**62


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads intents and training clicks, and writes pairs."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        source = exec_properties["source"]
        impressions = artifact_utils.get_single_instance(input_dict["impressions"])
        catalogue = artifact_utils.get_single_instance(input_dict["items"])
        artifact = artifact_utils.get_single_instance(output_dict["pairs"])
        declare_splits(artifact, PAIR_SPLITS)
        spans = Spans(**json.loads(exec_properties["spans"]))
        schema = Schema.from_json(exec_properties["schema"])
        read = source in ("intents", "auto")
        files = find_table(exec_properties["data"], "intents", schema.intents, spans) if read else []
        if source == "intents" and not files:
            raise ContractError(f"data.pairs.source is intents, but {exec_properties['data']} holds no table `intents`")

        pipeline = self._make_beam_pipeline()
        window_end = beam.pvalue.AsSingleton(
            [pipeline | f"Later[{s}]" >> ReadExamples(impressions, s, only=("timestamp",)) for s in SPLITS[1:]]
            | beam.Flatten()
            | "Earliest" >> beam.Map(lambda columns: pc.min(columns["timestamp"]).as_py())
            | "WindowEnd" >> beam.CombineGlobally(_smallest)
        )
        pairs = []
        if not files:
            against_seen = source == "impressions"
            pairs.append(
                _training_rows(pipeline, impressions, catalogue, schema.policies)
                | "Needed" >> beam.Map(_needed, against_seen)
                | "ByUser" >> beam.ParDo(KeyByBucket("user_id", user_buckets(example_files(impressions))))
                | "Group" >> beam.GroupByKey()
                | "PairsOfUsers" >> beam.ParDo(PairsOfBucket(against_seen, exec_properties))
            )
        if files:
            sides = [pipeline | "KnownItems" >> ReadItemIds(catalogue)]
            if schema.policies.repeated_rows == "drop":
                sides.append(pipeline | "Repeated" >> RepeatedRows(files, "intents", INTENT_COLUMNS, schema.intents))
            checked = (
                pipeline
                | ReadTable(files, "intents", schema.intents)
                | "Check"
                >> beam.ParDo(counts.Checked(_CheckIntents(schema)), *sides).with_outputs(
                    counts.REJECTS, counts.TALLY, main="valid"
                )
            )
            (checked[counts.REJECTS], checked[counts.TALLY]) | counts.WriteRowCounts("intents", artifact.uri)
            pairs.append(
                checked["valid"] | "InWindow" >> beam.Map(_before, window_end) | "Intents" >> beam.Map(_intents)
            )
        encoded = pairs | "AllPairs" >> beam.Flatten() | "Encode" >> beam.ParDo(_Encode()).with_outputs(*PAIR_SPLITS)
        for name in PAIR_SPLITS:
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
        finish(pipeline, "PairGen", artifact)
        close_splits(artifact)
        if files:
            declare_counts(artifact, counts.check_counts("intents", artifact.uri, exec_properties))


class _CheckIntents:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def __call__(
        self, batch: TableBatch, known_items: set[str], repeated: Collection[tuple[str, int]] = ()
    ) -> CheckedRows:
        return check_intents(batch, self._schema.intents, self._schema.policies, known_items, repeated)


def _smallest(values: Iterable[int]) -> int:
    return min(values, default=NO_END)


def _before(valid: Columns, window_end: int) -> Columns:
    return take(valid, valid["timestamp"].to_numpy() < window_end)


def _intents(valid: Columns) -> Columns:
    """Intents in the form of pairs: a query item is a list of one."""
    rows = len(valid["item_id"])
    named = pc.not_equal(valid["query_item_id"], "").to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(named)]).astype(np.int32))
    query = valid["query_item_id"].cast(pa.binary()).filter(pa.array(named))
    columns = {name: values for name, values in valid.items() if name != "query_item_id"}
    return columns | {
        "query_item_ids": pa.ListArray.from_arrays(offsets, query),
        "hard_item_ids": _no_items(rows),
        "user_id": pa.array([b""] * rows, pa.binary()),
    }


def _training_rows(
    pipeline: beam.Pipeline, impressions: types.Artifact, catalogue: types.Artifact, policies: Policies
) -> beam.PCollection[Columns]:
    """The training impressions whose item has content."""
    only = ("user_id", "item_id", "timestamp", "sequence", "clicked")
    rows: beam.PCollection[Columns] = pipeline | "Train" >> ReadExamples(impressions, "train", only=only)
    if policies.unknown_items != "keep":  # then ImpressionGen left none of another item
        return rows
    known: beam.PCollection[Columns] = rows | "OfKnownItems" >> beam.Map(
        _of_known_items, pipeline | "KnownItems" >> ReadItemIds(catalogue)
    )
    return known


def _of_known_items(impressions: Columns, known_items: set[str]) -> Columns:
    """Without the rows whose item has no content, which `unknown_items: keep` leaves."""
    ids = impressions["item_id"].to_pylist()
    return take(impressions, np.fromiter((one.decode() in known_items for one in ids), bool, len(ids)))


def _needed(impressions: Columns, against_seen: bool) -> Columns:
    """Of impressions, the clicks, unless what was not clicked is asked for too."""
    return impressions if against_seen else take(impressions, impressions["clicked"].to_numpy() == 1)


class PairsOfBucket(beam.DoFn):
    """(bucket, its users' training impressions) → pairs.

    Args:
        against_seen: Whether a pair is of a history, a click, and what was seen and not clicked; else of two clicks.
        settings: `window_seconds`, `max_gap`, `max_per_user`, `query_length`, `hard`.
    """

    def __init__(self, against_seen: bool, settings: dict[str, Any]) -> None:
        self._against_seen = against_seen
        names = ("query_length", "hard") if against_seen else ("window_seconds", "max_gap")
        self._settings = {name: settings[name] for name in (*names, "max_per_user")}

    def process(self, group: tuple[int, Iterable[Columns]]) -> Iterator[Columns]:
        columns = concatenate(_needed(batch, self._against_seen) for batch in group[1])
        user, item = ranks(columns["user_id"]), ranks(columns["item_id"])
        timestamp, sequence, clicked = (
            columns[name].to_numpy(zero_copy_only=False) for name in ("timestamp", "sequence", "clicked")
        )
        ids = columns["item_id"]
        if self._against_seen:
            pairs = impression_pairs(user, timestamp, sequence, item, clicked, **self._settings)
            target = pairs.item
            queries = _item_lists(ids, pairs.query, pairs.query_offsets)
            hard = _item_lists(ids, pairs.hard, pairs.hard_offsets)
        else:
            query, target = history_pairs(user, timestamp, sequence, item, **self._settings)
            queries = _item_lists(ids, query, np.arange(len(query) + 1))
            hard = _no_items(len(target))
        nothing = pa.array([b""] * len(target), pa.binary())
        yield {
            "query_item_ids": queries,
            "query_image": nothing,
            "query_text": nothing,
            "item_id": ids.take(pa.array(target)),
            "hard_item_ids": hard,
            "user_id": columns["user_id"].take(pa.array(target)) if self._against_seen else nothing,
            "signal": pa.array([b"click"] * len(target), pa.binary()),
            "timestamp": columns["timestamp"].take(pa.array(target)),
        }


def _item_lists(item_id: pa.Array, rows: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), item_id.take(pa.array(rows)))


def _no_items(rows: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.binary()))


class _Encode(beam.DoFn):
    def process(self, pairs: Columns) -> Iterator[Any]:
        if not len(pairs["item_id"]):
            return
        query = pc.binary_join_element_wise(
            *(pairs[name].cast(pa.binary()) for name in ("item_id", "query_text")),
            pc.binary_join(pairs["query_item_ids"].cast(pa.list_(pa.binary())), b"|"),
            b"|",
        )
        # A user's pairs overlap in their histories: all or none of them are held out.
        key = pc.if_else(pc.not_equal(pairs["user_id"], b""), pairs["user_id"], query)
        held_out = hash_buckets(key, BUCKETS) < VALID_BUCKETS
        for split, rows in (("train", ~held_out), ("valid", held_out)):
            if np.any(rows):
                yield beam.pvalue.TaggedOutput(split, to_examples(take(pairs, rows)))
