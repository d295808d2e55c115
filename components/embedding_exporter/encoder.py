"""The encoder's SavedModel under Beam's RunInference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from components.embedding_exporter.catalogue import Batch
from serving.representation_center.snapshot import shard_table
from serving.representation_center.vectors import store_vectors


class Encoder:
    """The SavedModel in `folder`; lives once on a machine, and other processes call it."""

    def __init__(self, folder: str) -> None:
        import tensorflow_text  # noqa: F401  registers the tokenizer's operations

        self._model = tf.saved_model.load(folder)

    def embed(self, content: dict[str, np.ndarray]) -> np.ndarray:
        """Object arrays `image`, `title`, `text` [B], and float32 [B, dim] of each embedding → float32 [B, d]."""
        answer = self._model.signatures["serving_default"](**{k: tf.constant(v) for k, v in content.items()})
        vectors: np.ndarray = answer["embedding"].numpy()
        return vectors


class EncoderHandler(ModelHandler[Batch, PredictionResult, Any]):
    """`Batch` → its vectors, float32 [B, d].

    Args:
        folder: The SavedModel.
        many_processes: Whether a machine has several worker processes.  They then share one model, in one of them;
            to reach it there costs each content 0.3 ms.
    """

    def __init__(self, folder: str, many_processes: bool) -> None:
        super().__init__(max_batch_size=1, large_model=many_processes)  # what comes in is a batch already
        self._folder = folder

    def load_model(self) -> Encoder:
        return Encoder(self._folder)

    def run_inference(
        self, batch: Sequence[Batch], model: Encoder, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        for one in batch:
            yield PredictionResult(one, model.embed(one.content))


class ToRows(beam.DoFn):
    """A result of the encoder → a table with a row for every item of the contents.

    Args:
        dtype: The vectors are stored as.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def process(self, result: PredictionResult) -> Iterator[pa.Table]:
        batch: Batch = result.example
        stored = store_vectors(result.inference, self._dtype)
        times = [len(ids) for ids in batch.item_ids]
        own = np.repeat(np.arange(len(times)), times)
        item_ids = [item_id for ids in batch.item_ids for item_id in ids]
        hashes = [batch.content_hash[row] for row in own]
        yield shard_table(item_ids, hashes, stored[own], batch.modalities[own])
