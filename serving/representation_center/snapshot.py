"""A snapshot: all embeddings of one encoder version, as Parquet shards and a manifest.

snapshot/
  manifest.json            encoder version and digest, dimension, dtype, count, digest of each shard
  shard-00000-of-00004.parquet
                           item_id, content_hash, vector (int8 × 1/127), modalities (1 image, 2 text)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IMAGE, TEXT = 1, 2
INT8_SCALE = 127.0
MANIFEST = "manifest.json"


class SnapshotError(ValueError):
    """A snapshot is broken or does not fit.  The message names the file, the rule and the fix."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot says of itself."""

    encoder_version: str
    encoder_digest: str
    dimension: int
    dtype: str
    count: int
    shards: dict[str, str]  # file name → sha256


def schema(dimension: int) -> pa.Schema:
    """Columns of a shard."""
    return pa.schema(
        [
            ("item_id", pa.string()),
            ("content_hash", pa.string()),
            ("vector", pa.list_(pa.int8(), dimension)),
            ("modalities", pa.uint8()),
        ]
    )


def quantise(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one, float [n, d] → int8 [n, d] at scale 1/127."""
    return np.clip(np.rint(vectors * INT8_SCALE), -127, 127).astype(np.int8)


def content_hash(image: bytes, title: bytes, text: bytes) -> str:
    """Digest of what an encoder reads of an item; equal content, equal hash."""
    digest = hashlib.sha256()
    for part in (image, title, text):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(folder: Path, encoder_version: str, encoder_digest: str, dimension: int) -> Manifest:
    """Closes the snapshot in `folder`: counts and digests its shards.

    Raises:
        SnapshotError: two rows have the same item, or there is no row.
    """
    shards = sorted(folder.glob("*.parquet"))
    ids = pa.chunked_array(
        [c for path in shards for c in pq.read_table(path, columns=["item_id"])["item_id"].chunks], pa.string()
    )
    if not len(ids):
        raise SnapshotError(f"the snapshot {folder} holds no vector; the catalogue it was made from is empty")
    if len(ids.unique()) != len(ids):
        raise SnapshotError(
            f"the snapshot {folder} holds {len(ids) - len(ids.unique())} items twice; item ids must be unique"
        )
    digests = {path.name: file_digest(path) for path in shards}
    manifest = Manifest(encoder_version, encoder_digest, dimension, "int8", len(ids), digests)
    part = folder / (MANIFEST + ".part")
    part.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    part.rename(folder / MANIFEST)
    return manifest


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in memory, ordered by item id.

    Attributes:
        manifest: What it says of itself.
        item_ids: str [items].
        vectors: int8 [items, d]; divide by 127 for vectors of length one.
        modalities: uint8 [items]; 0 where an item has neither picture nor words, and so no vector.
        content_hashes: str [items].
    """

    manifest: Manifest
    item_ids: np.ndarray
    vectors: np.ndarray
    modalities: np.ndarray
    content_hashes: np.ndarray

    @staticmethod
    def load(folder: str | Path) -> Snapshot:
        """Reads and checks a snapshot.

        Raises:
            SnapshotError: no manifest, a shard that is missing or changed, or a count that does not fit.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise SnapshotError(
                f"{folder} holds no {MANIFEST}: it is no snapshot, or its writing was broken off; export again"
            )
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text()))
        tables = []
        for name, digest in manifest.shards.items():
            path = folder / name
            if not path.is_file() or file_digest(path) != digest:
                raise SnapshotError(
                    f"shard {path} is missing or not the one the manifest names; export the snapshot again"
                )
            tables.append(pq.read_table(path))
        table = pa.concat_tables(tables).sort_by("item_id").combine_chunks()
        if table.num_rows != manifest.count:
            raise SnapshotError(
                f"{folder} holds {table.num_rows} rows, its manifest says {manifest.count}; export again"
            )
        flat = table["vector"].chunk(0).flatten().to_numpy(zero_copy_only=False)
        return Snapshot(
            manifest,
            np.array(table["item_id"].to_pylist()),
            flat.reshape(-1, manifest.dimension),
            table["modalities"].to_numpy(),
            np.array(table["content_hash"].to_pylist()),
        )
