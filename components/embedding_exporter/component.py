"""`EmbeddingExporter`: items + encoder → `ItemEmbeddings`."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import ItemEmbeddings
from components.embedding_exporter.executor import Executor


class EmbeddingExporterSpec(ComponentSpec):
    """Parameters, inputs and outputs of `EmbeddingExporter`."""

    PARAMETERS = {
        "batch_size": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "encoder": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddings)}


class EmbeddingExporter(base_beam_component.BaseBeamComponent):
    """Encodes every item with Beam's RunInference and writes one snapshot.

    Args:
        items: The catalogue.
        encoder: A model whose SavedModel has the signature `embed_examples`.
        batch_size: Items a call of the encoder.
    """

    SPEC_CLASS = EmbeddingExporterSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self, items: types.BaseChannel, encoder: types.BaseChannel, code_fingerprint: str, batch_size: int = 128
    ) -> None:
        spec = EmbeddingExporterSpec(
            items=items,
            encoder=encoder,
            batch_size=batch_size,
            code_fingerprint=code_fingerprint,
            embeddings=types.Channel(type=ItemEmbeddings),
        )
        super().__init__(spec=spec)
