"""`EmbeddingExporter`: items + encoder → `ItemEmbeddings`."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.artifacts import ItemEmbeddings
from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.embedding_exporter.executor import Executor


class EmbeddingExporter(Component, executor=Executor):
    """Writes one snapshot; Beam's RunInference encodes each new content once.

    Args:
        items: The catalogue.
        encoder: A model whose SavedModel has the signature `embed_examples`.
        dtype: Vectors are kept as `int8` (scale 1/127) or `float16`.
        batch_size: Contents a call of the encoder.
        previous: A snapshot; if it is of the same encoder, what it holds is not encoded again.
    """

    items: InputArtifact[standard_artifacts.Examples]
    encoder: InputArtifact[standard_artifacts.Model]
    previous: InputArtifact[ItemEmbeddings] = None
    batch_size: Parameter[int] = 128
    dtype: Parameter[str] = "int8"
    embeddings: OutputArtifact[ItemEmbeddings]
