"""`ContentAttributes`: items → items with attributes that are learned from their content."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.content_attributes.executor import Executor


class ContentAttributesSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ContentAttributes`."""

    PARAMETERS = {
        "clusters": ExecutionParameter(type=int),
        "words": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "impressions": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"described": ChannelParameter(type=standard_artifacts.Examples)}


class ContentAttributes(base_component.BaseComponent):
    """Adds `image_cluster`, `text_cluster` and `text_words` to the items, so that clicks on like items are counted
    together.

    A picture is described by its colours, a text by latent semantic analysis; each is cut into clusters by k-means.
    The impressions of the training split decide how many clusters there are, and which words of the texts count: those
    in which users differ beyond chance.  These attributes are there before the histories, and the statistics of a user
    and a cluster or word know what the user saw and did not click.

    Args:
        items: From CatalogueGen.
        impressions: From ImpressionGen.
        clusters: How many clusters of pictures, and of texts, at most.
        words: How many words, at most.
    """

    SPEC_CLASS = ContentAttributesSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        items: types.BaseChannel,
        impressions: types.BaseChannel,
        clusters: int,
        words: int,
        code_fingerprint: str,
    ) -> None:
        spec = ContentAttributesSpec(
            items=items,
            impressions=impressions,
            clusters=clusters,
            words=words,
            code_fingerprint=code_fingerprint,
            described=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
