"""`RetrievalIndex`: a snapshot → the SavedModel `mim_retrieval`."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import ItemEmbeddings
from components.retrieval_index.executor import Executor


class RetrievalIndexSpec(ComponentSpec):
    """Parameters, inputs and outputs of `RetrievalIndex`."""

    PARAMETERS = {"neighbours": ExecutionParameter(type=int), "code_fingerprint": ExecutionParameter(type=str)}
    INPUTS = {"embeddings": ChannelParameter(type=ItemEmbeddings)}
    OUTPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}


class RetrievalIndex(base_component.BaseComponent):
    """Builds an exact TFRS index over the items that have a vector.

    Args:
        embeddings: The snapshot.
        neighbours: How many items an answer holds.
    """

    SPEC_CLASS = RetrievalIndexSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, embeddings: types.BaseChannel, code_fingerprint: str, neighbours: int = 50) -> None:
        spec = RetrievalIndexSpec(
            embeddings=embeddings,
            neighbours=neighbours,
            code_fingerprint=code_fingerprint,
            model=types.Channel(type=standard_artifacts.Model),
        )
        super().__init__(spec=spec)
