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
        "snapshots": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "encoder": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddings)}


class EmbeddingExporter(base_beam_component.BaseBeamComponent):
    """Writes one snapshot; Beam's RunInference encodes each new content once.

    Args:
        items: The catalogue.
        encoder: A model whose SavedModel has the signature `embed_examples`.
        snapshots: Folder that keeps where the last snapshot of each encoder lies; what it holds is not encoded again.
        dtype: Vectors are kept as `int8` (scale 1/127) or `float16`.
        batch_size: Contents a call of the encoder.
    """

    SPEC_CLASS = EmbeddingExporterSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        items: types.BaseChannel,
        encoder: types.BaseChannel,
        snapshots: str,
        code_fingerprint: str,
        dtype: str = "int8",
        batch_size: int = 128,
    ) -> None:
        spec = EmbeddingExporterSpec(
            items=items,
            encoder=encoder,
            batch_size=batch_size,
            dtype=dtype,
            snapshots=snapshots,
            code_fingerprint=code_fingerprint,
            embeddings=types.Channel(type=ItemEmbeddings),
        )
        super().__init__(spec=spec)
