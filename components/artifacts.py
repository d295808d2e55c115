"""The artifact type that links the encoder to the ranker in the lineage."""

from __future__ import annotations

from tfx.types import artifact


class ItemEmbeddings(artifact.Artifact):
    """A snapshot: all embeddings of one encoder version (see `serving.representation_center.snapshot`)."""

    TYPE_NAME = "ItemEmbeddings"
    PROPERTIES = {
        "encoder_version": artifact.Property(type=artifact.PropertyType.STRING),
        "encoder_digest": artifact.Property(type=artifact.PropertyType.STRING),
        "dimension": artifact.Property(type=artifact.PropertyType.INT),
        "dtype": artifact.Property(type=artifact.PropertyType.STRING),
        "count": artifact.Property(type=artifact.PropertyType.INT),
        "shards": artifact.Property(type=artifact.PropertyType.INT),
    }
