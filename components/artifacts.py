"""The artifact type that links the encoder to the ranker in the lineage."""

from __future__ import annotations

from tfx.types import artifact

from serving.representation_center.snapshot import Manifest


class ItemEmbeddings(artifact.Artifact):
    """A snapshot: all embeddings of one encoder version (see `serving.representation_center.snapshot`).

    What its manifest says is kept as custom properties, because Kubeflow's compiler knows no declared properties
    of artifact types that are not TFX's own: `encoder_version`, `encoder_digest`, `dtype` (text), `dimension`,
    `count`, `shards` (numbers).
    """

    TYPE_NAME = "mim.ItemEmbeddings"  # Kubeflow asks for a namespace

    def describe(self, manifest: Manifest) -> None:
        """Copies `manifest` into the custom properties."""
        for name in ("encoder_version", "encoder_digest", "dtype"):
            self.set_string_custom_property(name, getattr(manifest, name))
        for name, value in (
            ("dimension", manifest.dimension),
            ("count", manifest.count),
            ("shards", len(manifest.shards)),
        ):
            self.set_int_custom_property(name, value)


class Release(artifact.Artifact):
    """A folder with `release.json`: an encoder, a snapshot, an index and a ranker that belong together."""

    TYPE_NAME = "mim.Release"
