"""What `EmbeddingExporter` does on Beam."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from absl import logging
from apache_beam.ml.inference.base import RunInference
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.catalogue_gen.executor import SPLITS
from components.embedding_exporter.catalogue import ReadContent, ReadIndex
from components.embedding_exporter.encoder import EncoderHandler, ToRows
from components.embedding_exporter.plan import COPIED, EMPTY, ENCODED, ROWS, SHARED, WANTED, Plan, ReadVectors
from components.embedding_exporter.shards import WriteShards
from components.engine import many_processes
from components.examples import UNFINISHED, declare_counts
from components.metrics import finish
from components.storage import on_local_disk
from serving.representation_center.snapshot import Manifest, SnapshotError, read_manifest, write_manifest
from serving.storage import is_local

FACTS = "assets.extra/mim.json"
BUCKETS = 64


class Executor(base_beam_executor.BaseBeamExecutor):
    """Encodes what is new, copies what the previous snapshot of the same encoder has, closes the snapshot."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        items = artifact_utils.get_single_instance(input_dict["items"])
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["encoder"]))
        artifact = artifact_utils.get_single_instance(output_dict["embeddings"])
        with tf.io.gfile.GFile(f"{model}/{FACTS}") as handle:
            facts = json.loads(handle.read())
        dtype = exec_properties["dtype"]
        previous = artifact_utils.get_single_uri(input_dict["previous"]) if input_dict.get("previous") else None
        if previous is not None and not _is_reusable(previous, (facts["digest"], facts["dimension"], dtype)):
            previous = None

        if not is_local(artifact.uri):
            raise ValueError(
                f"with a distributed Beam runner the snapshot is written to a folder that all workers mount; received "
                f"{artifact.uri}. Give such a --root, or export with Beam's own runner"
            )
        part = Path(f"{artifact.uri}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        pipeline = self._make_beam_pipeline()
        _export(
            pipeline,
            [f"{artifact_utils.get_split_uri([items], split)}/*" for split in SPLITS],
            model,
            facts,
            dtype,
            exec_properties["batch_size"],
            previous,
            str(part),
            many_processes=many_processes(self._beam_pipeline_args or ()),
        )
        counted = finish(pipeline, "EmbeddingExporter", artifact)
        shutil.rmtree(part / UNFINISHED, ignore_errors=True)
        counts = {name: counted.get(name, 0) for name in (ENCODED, COPIED, SHARED, EMPTY)}
        manifest = write_manifest(part, facts["version"], facts["digest"], facts["dimension"], dtype)
        _check_counts(manifest, counts)
        shutil.rmtree(artifact.uri, ignore_errors=True)
        part.rename(artifact.uri)
        artifact.describe(manifest)
        declare_counts(artifact, counts)
        summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        logging.info("snapshot of encoder %s: %d vectors (%s)", manifest.encoder_version, manifest.count, summary)


def _is_reusable(snapshot: str, made_by: tuple[str, int, str]) -> bool:
    """Whether a snapshot is there and holds what this encoder would make."""
    try:
        manifest = read_manifest(snapshot)
    except (OSError, SnapshotError) as error:
        logging.warning("the previous snapshot cannot be read, so all items are encoded: %s", error)
        return False
    return (manifest.encoder_digest, manifest.dimension, manifest.dtype) == made_by


def _export(
    pipeline: beam.Pipeline,
    patterns: list[str],
    model: str,
    facts: dict[str, Any],
    dtype: str,
    batch_size: int,
    last: str | None,
    folder: str,
    many_processes: bool,
) -> None:
    """Content crosses no shuffle, only ids, hashes and vectors do; so memory does not grow with the pictures."""
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    index = (
        pipeline
        | "Files" >> beam.Create(files)
        | "Spread" >> beam.Reshuffle()
        | "ReadIndex" >> beam.ParDo(ReadIndex(BUCKETS, facts["embeddings"]))
    )
    before = (
        pipeline | "Last" >> beam.Create([last] if last else []) | "ReadVectors" >> beam.ParDo(ReadVectors(BUCKETS))
    )
    planned = (
        {"index": index, "before": before}
        | "SameContent" >> beam.CoGroupByKey()
        | "Plan" >> beam.ParDo(Plan(facts["dimension"], dtype)).with_outputs(ROWS, WANTED)
    )
    encoded = (
        planned[WANTED]
        | "OfOneFile" >> beam.GroupByKey()
        | "ReadContent" >> beam.ParDo(ReadContent(batch_size, facts["embeddings"]))
        | "Encode" >> RunInference(EncoderHandler(model, many_processes))
        | "ToRows" >> beam.ParDo(ToRows(dtype))
    )
    # Not flattened into one: each is then written as it comes, and nothing is kept.
    for name, rows in (("known", planned[ROWS]), ("encoded", encoded)):
        _ = rows | f"Shards[{name}]" >> WriteShards(folder, name, f"{folder}/{UNFINISHED}/{name}")


def _check_counts(manifest: Manifest, counts: dict[str, int]) -> None:
    if sum(counts.values()) != manifest.count:
        raise SnapshotError(f"the snapshot has {manifest.count} rows, but its items are counted as {counts}")
