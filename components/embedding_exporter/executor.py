"""What `EmbeddingExporter` does on Beam."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from absl import logging
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.catalogue_gen.executor import SPLITS
from serving.representation_center.snapshot import IMAGE, TEXT, content_hash, quantise, schema, write_manifest

FACTS = "assets.extra/mim.json"


class EncoderHandler(ModelHandler[bytes, PredictionResult, Any]):
    """Serialised tf.Examples of items → embeddings, by the SavedModel's `embed_examples`.

    Args:
        folder: The SavedModel.
        batch_size: Items a call.
    """

    def __init__(self, folder: str, batch_size: int) -> None:
        super().__init__(max_batch_size=batch_size)
        self._folder = folder

    def load_model(self) -> Any:
        import tensorflow_text  # noqa: F401  registers the tokenizer's operations

        return tf.saved_model.load(self._folder)

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        result = model.signatures["embed_examples"](examples=tf.constant(list(batch)))
        for example, vector in zip(batch, result["embedding"].numpy(), strict=True):
            yield PredictionResult(example, vector)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the encoder over all splits of the catalogue and closes the snapshot."""

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

        pipeline = self._make_beam_pipeline()
        examples = [
            pipeline | f"Read[{split}]" >> beam.io.ReadFromTFRecord(f"{artifact_utils.get_split_uri([items], split)}/*")
            for split in SPLITS
        ]
        rows = (
            examples
            | beam.Flatten()
            | "Encode" >> RunInference(EncoderHandler(model, exec_properties["batch_size"]))
            | "ToRow" >> beam.Map(_to_row)
        )
        _ = rows | "Write" >> beam.io.WriteToParquet(
            f"{artifact.uri}/shard", schema(facts["dimension"]), file_name_suffix=".parquet"
        )
        pipeline.run().wait_until_finish()
        manifest = write_manifest(Path(artifact.uri), facts["version"], facts["digest"], facts["dimension"])
        artifact.describe(manifest)
        logging.info("snapshot of encoder %s: %d vectors", manifest.encoder_version, manifest.count)


def _to_row(result: PredictionResult) -> dict[str, Any]:
    features = tf.train.Example.FromString(result.example).features.feature

    def value(name: str) -> bytes:
        values = features[name].bytes_list.value
        return values[0] if values else b""

    image, title, text = value("image"), value("title"), value("text")
    vector = quantise(np.asarray(result.inference))
    return {
        "item_id": value("item_id").decode(),
        "content_hash": content_hash(image, title, text),
        "vector": vector.tolist(),
        "modalities": IMAGE * bool(image) + TEXT * bool((title + text).strip()),
    }
