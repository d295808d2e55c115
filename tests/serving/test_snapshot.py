"""Snapshots keep what they were given and refuse what was changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.representation_center.snapshot import Snapshot, SnapshotError, content_hash, schema, write_manifest
from serving.representation_center.vectors import INT8_SCALE, store_vectors

D = 32


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    made = rng.normal(size=(50, D))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path: Path, vectors: np.ndarray) -> Path:
    order = np.random.default_rng(1).permutation(50)
    for shard, rows in enumerate(np.array_split(order, 3)):
        table = pa.table(
            {
                "item_id": [f"i{row:03d}" for row in rows],
                "content_hash": [f"h{row}" for row in rows],
                "vector": pa.array(store_vectors(vectors[rows]).tolist(), pa.list_(pa.int8(), D)),
                "modalities": pa.array([3] * len(rows), pa.uint8()),
            },
            schema=schema(D),
        )
        pq.write_table(table, tmp_path / f"shard-{shard}.parquet")
    write_manifest(tmp_path, "v1", "digest", D)
    return tmp_path


def test_comes_back_in_the_order_of_ids(folder: Path, vectors: np.ndarray) -> None:
    snapshot = Snapshot.load(folder)
    assert snapshot.item_ids.tolist() == [f"i{n:03d}" for n in range(50)]
    assert snapshot.content_hashes[7] == "h7"
    assert snapshot.manifest.count == 50
    back = snapshot.vectors / INT8_SCALE
    cosine = (back * vectors).sum(1) / np.linalg.norm(back, axis=1)
    assert cosine.min() > 0.999


def test_a_changed_shard_is_refused(folder: Path) -> None:
    (folder / "shard-1.parquet").write_bytes(b"other")
    with pytest.raises(SnapshotError, match="shard-1.parquet is missing or not the one the manifest names"):
        Snapshot.load(folder)


def test_an_unfinished_snapshot_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(SnapshotError, match="its writing was broken off"):
        Snapshot.load(folder)


def test_a_wrong_count_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "count": 49}))
    with pytest.raises(SnapshotError, match="holds 50 rows, its manifest says 49"):
        Snapshot.load(folder)


def test_items_must_be_unique(folder: Path) -> None:
    (folder / "shard-9.parquet").write_bytes((folder / "shard-0.parquet").read_bytes())
    with pytest.raises(SnapshotError, match="items twice"):
        write_manifest(folder, "v1", "digest", D)


def test_content_hash_keeps_its_parts_apart() -> None:
    assert content_hash(b"", b"ab", b"c") != content_hash(b"", b"a", b"bc")
    assert content_hash(b"x", b"a", b"b") == content_hash(b"x", b"a", b"b")
