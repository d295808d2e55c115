"""What `ContentAttributes` does."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS
from components.content_attributes.describe import COLOR_BINS, describe_images
from components.content_attributes.learned import Content, Sample, join, learn_attributes
from components.content_attributes.user_effects import Activity
from components.examples import close_splits, declare_splits, read_files, read_split
from components.storage import on_local_disk

CONTENT = ("title", "text", "image")
SAMPLED = 20_000  # items that attributes are learned from, at most
BATCH = 1_024


class Executor(base_executor.BaseExecutor):
    """Learns attributes from the training splits and writes every item with its own."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        folder, log = (str(artifact_utils.get_single_uri(input_dict[name])) for name in ("items", "impressions"))
        made = artifact_utils.get_single_instance(output_dict["described"])
        declare_splits(made, SPLITS)
        clusters = exec_properties["clusters"]
        sample = _sample(f"{folder}/Split-train/*", log, pictures=clusters > 0)
        assign = learn_attributes(sample, clusters, exec_properties["words"])
        for split in SPLITS:
            target = artifact_utils.get_split_uri([made], split)
            tf.io.gfile.makedirs(target)
            for file in sorted(tf.io.gfile.glob(f"{folder}/Split-{split}/*")):
                options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
                with tf.io.TFRecordWriter(f"{target}/{file.rpartition('/')[2]}", options) as writer:
                    for rows, content in _batches(file):
                        values = {name: one(content) for name, one in assign.items()}
                        for index, row in enumerate(rows):
                            writer.write(_with(row, {name: own[index] for name, own in values.items()}))
        close_splits(made)


def _sample(pattern: str, log: str, pictures: bool) -> Sample:
    """At most `SAMPLED` items, those that were shown most often in training, sorted by their ids."""
    files = sorted(tf.io.gfile.glob(pattern))
    ids = [one for file in files for _, content in _batches(file, ("item_id",)) for one in content["item_id"]]
    shown: Counter[bytes] = Counter()
    for _, columns in read_split(log, "train", only=("item_id",)):
        shown.update({row["values"]: row["counts"] for row in pc.value_counts(columns["item_id"]).to_pylist()})
    order = sorted(ids, key=lambda one: (-shown[one], hashlib.blake2b(one, digest_size=8).digest()))
    chosen = set(order[:SAMPLED])
    found: list[tuple[bytes, str, np.ndarray]] = []
    for file in files:
        for _, content in _batches(file, ("item_id", *CONTENT)):
            rows = [row for row, one in enumerate(content["item_id"]) if one in chosen]
            kept = {name: [values[row] for row in rows] for name, values in content.items()}
            images = kept["image"] if pictures else [b""] * len(rows)
            found += zip(kept["item_id"], join(kept), describe_images(images), strict=True)
    found.sort(key=lambda one: one[0])
    impressions = read_split(log, "train", only=("user_id", "item_id", "clicked"))
    item_ids = pa.array([item_id for item_id, _, _ in found], pa.binary())
    return Sample(
        texts=[text for _, text, _ in found],
        images=np.array([image for _, _, image in found], np.float32).reshape(len(found), COLOR_BINS**3),
        activity=Activity.of_impressions((columns for _, columns in impressions), item_ids),
    )


def _batches(file: str, names: tuple[str, ...] = CONTENT) -> Iterator[tuple[list[bytes], Content]]:
    for rows, columns in read_files([file], only=names, batch_rows=BATCH):
        missing = [b""] * len(rows)
        yield rows, {name: columns[name].to_pylist() if name in columns else missing for name in names}


def _with(row: bytes, values: dict[str, bytes]) -> bytes:
    example = tf.train.Example.FromString(row)
    for name, value in values.items():
        example.features.feature[name].bytes_list.value[:] = [value]
    serialised: bytes = example.SerializeToString()
    return serialised
