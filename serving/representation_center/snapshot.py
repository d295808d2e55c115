"""A snapshot: all embeddings of one encoder version, as Parquet shards and a manifest.

snapshot/
  manifest.json            encoder version and digest, dimension, dtype, count, digest of each shard
  shard-00000-of-00004.parquet
                           item_id, content_hash, vector (int8 × 1/127, or float16), modalities (1 image, 2 text)

It is written under another name and renamed when it is whole, so what can be read is complete.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from serving.representation_center.vectors import DTYPES
from serving.storage import as_path

IMAGE, TEXT = 1, 2
MANIFEST = "manifest.json"
MOST_SORTED_VALUES = 2**30


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
    created_at: float = 0.0  # seconds since the epoch


def schema(dimension: int, dtype: str = "int8") -> pa.Schema:
    """Columns of a shard."""
    return pa.schema(
        [
            ("item_id", pa.string()),
            ("content_hash", pa.string()),
            ("vector", pa.list_(pa.from_numpy_dtype(dtype), dimension)),
            ("modalities", pa.uint8()),
        ]
    )


def content_hash(image: bytes, title: bytes, text: bytes, *embeddings: bytes) -> str:
    """Digest of what an encoder reads of an item, ready-made embeddings too; equal content, equal hash."""
    digest = hashlib.sha256()
    for part in (image, title, text, *embeddings):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def shard_table(
    item_ids: list[str], content_hashes: list[str], vectors: np.ndarray, modalities: np.ndarray
) -> pa.Table:
    """Rows of a shard from ids, hashes, stored vectors [n, d] and modalities [n]."""
    dtype, dimension = str(vectors.dtype), vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.from_numpy_dtype(dtype))
    columns = [
        pa.array(item_ids, pa.string()),
        pa.array(content_hashes, pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, dimension),
        pa.array(modalities, pa.uint8()),
    ]
    return pa.Table.from_arrays(columns, schema=schema(dimension, dtype))


def write_manifest(
    folder: Path, encoder_version: str, encoder_digest: str, dimension: int, dtype: str = "int8"
) -> Manifest:
    """Closes the snapshot in `folder`: counts and digests its shards.

    Raises:
        SnapshotError: two rows have the same item, or there is no row.
    """
    rows = {path: pq.ParquetFile(path).metadata.num_rows for path in sorted(folder.glob("*.parquet"))}
    shards, count = [path for path in rows if rows[path]], sum(rows.values())
    for path in rows:  # what writes in parallel may leave a shard without rows
        if not rows[path]:
            path.unlink()
    if not count:
        raise SnapshotError(f"the snapshot {folder} holds no vector; the catalogue it was made from is empty")
    if twice := _items_twice(shards):
        raise SnapshotError(f"the snapshot {folder} holds {twice} items twice; item ids must be unique")
    digests = {path.name: file_digest(path) for path in shards}
    manifest = Manifest(encoder_version, encoder_digest, dimension, dtype, count, digests, time.time())
    part = folder / (MANIFEST + ".part")
    part.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    part.rename(folder / MANIFEST)
    return manifest


def _items_twice(shards: list[Path]) -> int:
    """How many item ids come again; eight bytes an item are held, unless two look alike."""
    parts = [
        np.fromiter(map(hash, batch["item_id"].to_pylist()), np.int64, batch.num_rows)
        for path in shards
        for batch in pq.ParquetFile(path).iter_batches(columns=["item_id"])
    ]
    hashes = np.sort(np.concatenate(parts))
    if not np.any(hashes[1:] == hashes[:-1]):
        return 0
    ids = pa.concat_tables([pq.read_table(path, columns=["item_id"]) for path in shards])["item_id"]
    return len(ids) - len(ids.unique())


def read_manifest(folder: str | Path | UPath) -> Manifest:
    """The manifest of the snapshot in `folder`.

    Raises:
        SnapshotError: there is none, or it is of another kind.
    """
    path = as_path(folder) / MANIFEST
    if not path.is_file():
        raise SnapshotError(
            f"{folder} holds no {MANIFEST}: it is no snapshot, or its writing was broken off; export again"
        )
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise SnapshotError(f"{path} is not a snapshot's manifest ({error}); export the snapshot again") from error
    if manifest.dtype not in DTYPES:
        raise SnapshotError(f"a snapshot's dtype is one of {', '.join(DTYPES)}; {path} says {manifest.dtype!r}")
    return manifest


def check_snapshot(folder: str | Path) -> Manifest:
    """Reads every shard's digest, columns and count before anything uses them.

    Raises:
        SnapshotError: a shard is missing or changed, its columns are not those the manifest promises, or the count
            does not fit.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    rows = 0
    for name, digest in manifest.shards.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            raise SnapshotError(f"shard {path} is missing or not the one the manifest names; export the snapshot again")
        found = pq.ParquetFile(path)
        wanted = schema(manifest.dimension, manifest.dtype)
        if not found.schema_arrow.equals(wanted):
            raise SnapshotError(
                f"shard {path} does not hold vectors of {manifest.dimension} {manifest.dtype}, as its manifest says, "
                f"but {found.schema_arrow.field('vector').type}; export the snapshot again"
            )
        rows += found.metadata.num_rows
    if rows != manifest.count:
        raise SnapshotError(f"{folder} holds {rows} rows, its manifest says {manifest.count}; export again")
    return manifest


@dataclass(frozen=True)
class Rows:
    """Some rows of a snapshot.

    Attributes:
        item_ids, content_hashes: str [n].
        vectors: As stored, int8 or float16 [n, d]; `restore_vectors` makes floats of them.
        modalities: uint8 [n]; 0 where an item has neither picture nor words, and so no vector.
    """

    item_ids: list[str]
    content_hashes: list[str]
    vectors: np.ndarray
    modalities: np.ndarray

    @staticmethod
    def of(table: pa.Table, manifest: Manifest) -> Rows:
        """From rows of a shard."""
        vector = table["vector"].combine_chunks()
        vector = vector.chunk(0) if isinstance(vector, pa.ChunkedArray) else vector
        flat = vector.flatten().to_numpy(zero_copy_only=False)
        return Rows(
            table["item_id"].to_pylist(),
            table["content_hash"].to_pylist(),
            flat.reshape(-1, manifest.dimension),
            table["modalities"].to_numpy(),
        )


def read_rows(folder: str | Path, manifest: Manifest, batch_rows: int = 65_536) -> Iterator[Rows]:
    """All rows of a snapshot that was checked, a batch at a time."""
    for name in manifest.shards:
        for batch in pq.ParquetFile(Path(folder) / name).iter_batches(batch_rows):
            yield Rows.of(pa.Table.from_batches([batch]), manifest)


def read_sorted_rows(folder: str | Path, manifest: Manifest, batch_rows: int = 65_536) -> Iterator[Rows]:
    """As `read_rows`, in the order of item ids, for who stores them faster so; a snapshot too large to be sorted in
    memory comes as it lies."""
    if manifest.count * manifest.dimension > MOST_SORTED_VALUES:
        yield from read_rows(folder, manifest, batch_rows)
        return
    table = pa.concat_tables([pq.read_table(Path(folder) / name) for name in manifest.shards]).sort_by("item_id")
    for batch in table.to_batches(batch_rows):
        yield Rows.of(pa.Table.from_batches([batch]), manifest)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in memory, ordered by item id.

    Attributes:
        manifest: What it says of itself.
        item_ids: str [items].
        vectors: As stored, int8 or float16 [items, d]; `restore_vectors` makes floats of them.
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
            SnapshotError: as `check_snapshot`.
        """
        manifest = check_snapshot(folder)
        tables = [pq.read_table(Path(folder) / name) for name in manifest.shards]
        rows = Rows.of(pa.concat_tables(tables).sort_by("item_id"), manifest)
        ids, hashes = np.array(rows.item_ids), np.array(rows.content_hashes)
        return Snapshot(manifest, ids, rows.vectors, rows.modalities, hashes)
