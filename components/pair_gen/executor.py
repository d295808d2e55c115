"""What `PairGen` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS as PAIR_SPLITS
from components.contract import counts
from components.contract.checks import check_intents
from components.contract.files import Spans, find_table
from components.contract.tables import ContractError, ReadTable
from components.examples import (
    SPLITS,
    Columns,
    KeyByBucket,
    ReadExamples,
    WriteExamples,
    close_splits,
    concatenate,
    declare_counts,
    declare_splits,
    example_files,
    hash_buckets,
    ranks,
    take,
    to_examples,
    user_buckets,
)
from components.impression_gen.executor import ReadItemIds
from components.metrics import finish
from components.pair_gen.history_pairs import history_pairs

VALID_BUCKETS, BUCKETS = 10, 100
NO_END = 2**62


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads intents and training clicks, and writes pairs."""

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
        rejected, counts_file = exec_properties["rejected_folder"], f"{artifact.uri}/counts.json"
        spans = Spans(**json.loads(exec_properties["spans"]))
        files = find_table(exec_properties["data"], "intents", spans) if source != "history" else []
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
            only = ("user_id", "item_id", "timestamp", "sequence", "clicked")
            pairs.append(
                pipeline
                | "Train" >> ReadExamples(impressions, "train", only=only)
                | "Clicks" >> beam.Map(lambda columns: take(columns, columns["clicked"].to_numpy() == 1))
                | "ByUser" >> beam.ParDo(KeyByBucket("user_id", user_buckets(example_files(impressions))))
                | "Group" >> beam.GroupByKey()
                | "HistoryPairs"
                >> beam.FlatMap(
                    pairs_of_bucket,
                    exec_properties["window_seconds"],
                    exec_properties["max_gap"],
                    exec_properties["max_per_user"],
                )
            )
        if files:
            checked = (
                pipeline
                | ReadTable(files, "intents")
                | "Check"
                >> beam.ParDo(
                    counts.Checked(check_intents), pipeline | "KnownItems" >> ReadItemIds(catalogue)
                ).with_outputs(counts.REJECTS, counts.TALLY, main="good")
            )
            (checked[counts.REJECTS], checked[counts.TALLY]) | counts.WriteAccount("intents", rejected, counts_file)
            pairs.append(checked["good"] | "InWindow" >> beam.Map(_before, window_end))
        encoded = pairs | "AllPairs" >> beam.Flatten() | "Encode" >> beam.ParDo(_Encode()).with_outputs(*PAIR_SPLITS)
        for name in PAIR_SPLITS:
            encoded[name] | f"Write[{name}]" >> WriteExamples(artifact, name)
        finish(pipeline, "PairGen", artifact)
        close_splits(artifact)
        if files:
            tally = counts.read_counts(counts_file)
            counts.settle("intents", tally, exec_properties["max_rejected_fraction"], rejected)
            declare_counts(artifact, tally)


def _smallest(values: Iterable[int]) -> int:
    return min(values, default=NO_END)


def _before(good: Columns, window_end: int) -> Columns:
    return take(good, good["timestamp"].to_numpy() < window_end)


def pairs_of_bucket(
    group: tuple[int, Iterable[Columns]], window_seconds: int, max_gap: int, max_per_user: int
) -> Iterator[Columns]:
    """Pairs of all users of a bucket, from its training clicks."""
    clicks = concatenate(group[1])
    user, item = ranks(clicks["user_id"]), ranks(clicks["item_id"])
    timestamp, sequence = (clicks[name].to_numpy(zero_copy_only=False) for name in ("timestamp", "sequence"))
    query, target = history_pairs(user, timestamp, sequence, item, window_seconds, max_gap, max_per_user)
    empty = pa.array([b""] * len(query), pa.binary())
    yield {
        "query_item_id": clicks["item_id"].take(pa.array(query)),
        "query_image": empty,
        "query_text": empty,
        "item_id": clicks["item_id"].take(pa.array(target)),
        "signal": pa.array([b"click"] * len(query), pa.binary()),
        "timestamp": clicks["timestamp"].take(pa.array(target)),
    }


class _Encode(beam.DoFn):
    def process(self, pairs: Columns) -> Iterator[Any]:
        if not len(pairs["item_id"]):
            return
        query = pc.binary_join_element_wise(
            *(pairs[name].cast(pa.binary()) for name in ("item_id", "query_item_id", "query_text")), b"|"
        )
        held_out = hash_buckets(query, BUCKETS) < VALID_BUCKETS
        for split, rows in (("train", ~held_out), ("valid", held_out)):
            if np.any(rows):
                yield beam.pvalue.TaggedOutput(split, to_examples(take(pairs, rows)))
