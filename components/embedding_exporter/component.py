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
        "dtype": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "encoder": ChannelParameter(type=standard_artifacts.Model),
        "previous": ChannelParameter(type=ItemEmbeddings, optional=True),
    }
    OUTPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddings)}


class EmbeddingExporter(base_beam_component.BaseBeamComponent):
    """Writes one snapshot; Beam's RunInference encodes each new content once.

    Args:
        items: The catalogue.
        encoder: A model whose SavedModel has the signature `embed_examples`.
        dtype: Vectors are kept as `int8` (scale 1/127) or `float16`.
        batch_size: Contents a call of the encoder.
        previous: A snapshot; if it is of the same encoder, what it holds is not encoded again.
    """

    SPEC_CLASS = EmbeddingExporterSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        items: types.BaseChannel,
        encoder: types.BaseChannel,
        code_fingerprint: str,
        dtype: str = "int8",
        batch_size: int = 128,
        previous: types.BaseChannel | None = None,
    ) -> None:
        spec = EmbeddingExporterSpec(
            items=items,
            encoder=encoder,
            batch_size=batch_size,
            dtype=dtype,
            previous=previous,
            code_fingerprint=code_fingerprint,
            embeddings=types.Channel(type=ItemEmbeddings),
        )
        super().__init__(spec=spec)
