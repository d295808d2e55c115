"""What `RetrievalIndex` does: TensorFlow Recommenders' exact index, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.storage import on_local_disk
from mim_keras.serving.assets import write_batching
from mim_keras.serving.warmup import WarmupRequest, repeat_to, write_warmup
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import restore_vectors

QUERY_BATCHES = (1, 16)  # of the warm-up requests


class Executor(base_executor.BaseExecutor):
    """Loads the snapshot, builds the index, writes the SavedModel."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        snapshot = Snapshot.load(artifact_utils.get_single_uri(input_dict["embeddings"]))
        folder = path_utils.serving_model_dir(artifact_utils.get_single_uri(output_dict["model"]))
        export_index(snapshot, exec_properties["neighbours"], folder)


def export_index(snapshot: Snapshot, neighbours: int, folder: str) -> None:
    """Writes the SavedModel `mim_retrieval`.

    Signatures: `serving_default` (embedding float32 [B, d] → item_ids string [B, k], scores float32 [B, k], best
    first) and `similar_items` (item_id string [B] → the same; an item without a vector gets no neighbours, all
    its scores are 0).  k is `neighbours`, or the number of items where there are fewer.
    """
    has_vector = snapshot.modalities > 0
    ids = tf.constant([item_id.encode() for item_id in snapshot.item_ids[has_vector]], tf.string)
    vectors = tf.constant(restore_vectors(snapshot.vectors[has_vector]))
    k = min(neighbours, int(ids.shape[0]))
    index = tfrs.layers.factorized_top_k.BruteForce(k=k)
    index.index(vectors, ids)

    module = tf.Module()
    module.index = index
    module.vectors = tf.Variable(tf.concat([tf.zeros([1, vectors.shape[1]]), vectors], axis=0), trainable=False)
    module.places = tf.lookup.StaticHashTable(
        # "", which is no id, so that a table is not empty, which TensorFlow refuses
        tf.lookup.KeyValueTensorInitializer(tf.concat([[""], ids], 0), tf.range(len(ids) + 1, dtype=tf.int64)),
        default_value=0,
    )

    @tf.function(input_signature=[tf.TensorSpec([None, int(vectors.shape[1])], tf.float32, name="embedding")])
    def nearest(embedding: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, item_ids = index(embedding)
        return {"item_ids": item_ids, "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="item_id")])
    def similar_items(item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        return nearest(tf.gather(module.vectors, module.places.lookup(item_id)))

    tf.saved_model.save(module, folder, {"serving_default": nearest, "similar_items": similar_items})
    some, some_ids = vectors[: max(QUERY_BATCHES)].numpy(), ids[: max(QUERY_BATCHES)].numpy()
    requests = []
    for size in QUERY_BATCHES if len(some) else ():
        requests.append(WarmupRequest("serving_default", {"embedding": repeat_to(some, size)}))
        requests.append(WarmupRequest("similar_items", {"item_id": repeat_to(some_ids, size)}))
    write_warmup(Path(folder), requests)
    write_batching(Path(folder))
