"""`ContentClusters`: items → items with the clusters of their picture and of their text as attributes."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.content_clusters.executor import Executor


class ContentClustersSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ContentClusters`."""

    PARAMETERS = {"clusters": ExecutionParameter(type=int), "code_fingerprint": ExecutionParameter(type=str)}
    INPUTS = {"items": ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"clustered": ChannelParameter(type=standard_artifacts.Examples)}


class ContentClusters(base_component.BaseComponent):
    """Adds `image_cluster` and `text_cluster` to the items, so that clicks on like items are counted together.

    A picture is described by its colours, a text by latent semantic analysis; each is cut into clusters by k-means,
    fitted to the training split.  What is trained on behaviour comes later: these are there before the histories, and
    the statistics of a user and a cluster know what the user saw and did not click.

    Args:
        items: From CatalogueGen.
        clusters: How many clusters of pictures, and of texts.
    """

    SPEC_CLASS = ContentClustersSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, items: types.BaseChannel, clusters: int, code_fingerprint: str) -> None:
        spec = ContentClustersSpec(
            items=items,
            clusters=clusters,
            code_fingerprint=code_fingerprint,
            clustered=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
