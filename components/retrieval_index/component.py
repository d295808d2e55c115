"""`RetrievalIndex`: a snapshot → the SavedModel `mim_retrieval`."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.artifacts import ItemEmbeddings
from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.retrieval_index.executor import Executor


class RetrievalIndex(Component, executor=Executor):
    """Builds an exact TFRS index over the items that have a vector.

    Args:
        embeddings: The snapshot.
        neighbours: How many items an answer holds.
    """

    embeddings: InputArtifact[ItemEmbeddings]
    neighbours: Parameter[int] = 50
    model: OutputArtifact[standard_artifacts.Model]
