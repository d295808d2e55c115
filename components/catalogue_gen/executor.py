"""What `CatalogueGen` does on Beam."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.contract import counts
from components.contract.checks import Good, Rejects, check_items
from components.contract.files import find_table
from components.contract.pictures import Pictures
from components.contract.repeated import RepeatedIds
from components.contract.tables import ReadTable, TableBatch
from components.examples import (
    WriteExamples,
    close_splits,
    declare_counts,
    declare_splits,
    hash_buckets,
    take,
    to_examples,
)
from components.metrics import finish

SPLITS = ("train", "valid")
VALID_BUCKETS, BUCKETS = 10, 100


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks and writes the items."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        data, rejected = exec_properties["data"], exec_properties["rejected_folder"]
        artifact = artifact_utils.get_single_instance(output_dict["items"])
        declare_splits(artifact, SPLITS)
        counts_file = f"{artifact.uri}/counts.json"
        files = find_table(data, "items")
        pipeline = self._make_beam_pipeline()
        checked = (
            pipeline
            | "Items" >> ReadTable(files, "items")
            | "Check"
            >> beam.ParDo(
                _Check(data), pipeline | "RepeatedItems" >> RepeatedIds(files, "items", "item_id")
            ).with_outputs(counts.REJECTS, counts.TALLY, main="good")
        )
        (checked[counts.REJECTS], checked[counts.TALLY]) | "Account" >> counts.WriteAccount(
            "items", rejected, counts_file
        )
        encoded = checked["good"] | "Encode" >> beam.ParDo(_Encode()).with_outputs(*SPLITS)
        for split in SPLITS:
            encoded[split] | f"Write[{split}]" >> WriteExamples(artifact, split)
        finish(pipeline, "CatalogueGen", artifact)
        close_splits(artifact)
        tally = counts.read_counts(counts_file)
        counts.settle("items", tally, exec_properties["max_rejected_fraction"], rejected)
        declare_counts(artifact, tally)


class _Check(counts.Checked):
    """Checks batches of items; each worker opens the archives of pictures once."""

    def __init__(self, data: str) -> None:
        super().__init__(self._check_batch)
        self._data = data

    def setup(self) -> None:
        self._pictures = Pictures(self._data)

    def _check_batch(self, batch: TableBatch, repeated: Collection[tuple[str, int]]) -> tuple[Good, Rejects]:
        return check_items(batch, repeated, self._pictures.read)


def modalities(good: Good) -> pa.Array:
    """What content each item has, in words: a feature whose shares can be watched."""
    image, title, text = (pc.greater(pc.binary_length(good[name]), 0) for name in ("image", "title", "text"))
    words = pc.or_(title, text)
    return pc.case_when(
        pc.make_struct(pc.and_(image, words), image, words), "image and text", "image", "text", "nothing"
    )


class _Encode(beam.DoFn):
    def process(self, good: Good) -> Iterator[Any]:
        good = {**good, "modalities": modalities(good)}
        held_out = hash_buckets(good["item_id"], BUCKETS) < VALID_BUCKETS
        for split, rows in (("train", ~held_out), ("valid", held_out)):
            if np.any(rows):
                yield beam.pvalue.TaggedOutput(split, to_examples(take(good, rows)))
