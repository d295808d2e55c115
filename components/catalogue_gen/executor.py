"""What `CatalogueGen` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.columns import hash_buckets, take
from components.contract import counts
from components.contract.checks import CheckedRows, ValidRows, check_items
from components.contract.files import Spans, find_table
from components.contract.image_files import ImageFiles
from components.contract.repeated import RepeatedIds
from components.contract.schema import Schema
from components.contract.tables import ReadTable, TableBatch
from components.examples import WriteExamples, close_splits, declare_counts, declare_splits, to_examples
from components.metrics import finish
from components.storage import on_local_disk

SPLITS = ("train", "valid")
VALID_BUCKETS, BUCKETS = 10, 100


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks and writes the items."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        data = exec_properties["data"]
        artifact = artifact_utils.get_single_instance(output_dict["items"])
        declare_splits(artifact, SPLITS)
        schema = Schema.from_json(exec_properties["schema"])
        spans = Spans(**json.loads(exec_properties["spans"]))
        files = find_table(data, "items", schema.items, spans)
        repeated = RepeatedIds(files, "items", "item_id", schema.items, schema.policies)
        pipeline = self._make_beam_pipeline()
        checked = (
            pipeline
            | "Items" >> ReadTable(files, "items", schema.items)
            | "Check"
            >> beam.ParDo(_Check(data, schema), pipeline | "RepeatedItems" >> repeated).with_outputs(
                counts.REJECTS, counts.TALLY, main="valid"
            )
        )
        (checked[counts.REJECTS], checked[counts.TALLY]) | "RowCounts" >> counts.WriteRowCounts("items", artifact.uri)
        encoded = checked["valid"] | "Encode" >> beam.ParDo(_Encode()).with_outputs(*SPLITS)
        for split in SPLITS:
            encoded[split] | f"Write[{split}]" >> WriteExamples(artifact, split)
        finish(pipeline, "CatalogueGen", artifact)
        close_splits(artifact)
        declare_counts(artifact, counts.check_counts("items", artifact.uri, exec_properties))


class _Check(counts.Checked):
    """Checks batches of items; each worker opens the archives of pictures once."""

    def __init__(self, data: str, schema: Schema) -> None:
        super().__init__(self._check_batch)
        self._data, self._schema = data, schema

    def setup(self) -> None:
        self._images = ImageFiles(self._data, self._schema.images)

    def _check_batch(self, batch: TableBatch, others: Collection[tuple[str, int]]) -> CheckedRows:
        return check_items(batch, self._schema.items, self._schema.policies, others, self._images.read)


def modalities(valid: ValidRows) -> pa.Array:
    """What content each item has, in words: a feature whose shares can be watched."""
    image, title, text = (pc.greater(pc.binary_length(valid[name]), 0) for name in ("image", "title", "text"))
    words = pc.or_(title, text)
    return pc.case_when(
        pc.make_struct(pc.and_(image, words), image, words), "image and text", "image", "text", "nothing"
    )


class _Encode(beam.DoFn):
    def process(self, valid: ValidRows) -> Iterator[Any]:
        valid = {**valid, "modalities": modalities(valid)}
        held_out = hash_buckets(valid["item_id"], BUCKETS) < VALID_BUCKETS
        for split, rows in (("train", ~held_out), ("valid", held_out)):
            if np.any(rows):
                yield beam.pvalue.TaggedOutput(split, to_examples(take(valid, rows)))
