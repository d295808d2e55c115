"""`ContentAttributes`: items → items with attributes that are learned from their content."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.content_attributes.executor import Executor


class ContentAttributes(Component, executor=Executor):
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

    items: InputArtifact[standard_artifacts.Examples]
    impressions: InputArtifact[standard_artifacts.Examples]
    clusters: Parameter[int]
    words: Parameter[int]
    described: OutputArtifact[standard_artifacts.Examples]
