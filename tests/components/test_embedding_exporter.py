"""The snapshot holds every item once; what is known, or the same, is not encoded again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.artifacts import ItemEmbeddings
from components.contract.schema import Schema
from components.embedding_exporter.executor import Executor
from components.engine import IN_PROCESS
from mim_keras.config import EmbeddingTowerConfig, preset
from serving.releases import ReleaseError, find_snapshot
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import restore_vectors
from tests.components.runner import executor, run_catalogue
from tests.tiny_encoder import export_tiny_encoder
from tfx_pipeline.importers.sample_pictures import draw_picture

COLOURS = ("red", "blue", "green", "yellow")
WORDS = ("mug", "lamp with a rather long title that says much", "rug")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    export_tiny_encoder(folder / "Format-Serving")
    return folder


def shop(folder: Path, changed: tuple[int, ...] = (), items: int = 60) -> Path:
    """Items 0 to 59: each fifth shares its content with the one before, each eleventh has none."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(items):
        picture = draw_picture(rng, COLOURS[n % 4], "heart", "striped", "smooth")
        title = ("star " if n in changed else "") + f"{COLOURS[n % 4]} {WORDS[n % 3]} {n}"
        rows.append({"item_id": f"i{n:03d}", "title": title, "image": picture if n % 3 else None})
        if n % 5 == 4 and n not in changed:
            rows[-1] |= {"title": rows[-2]["title"], "image": rows[-2]["image"]}
        if n % 11 == 10:
            rows[-1] |= {"title": None, "image": None}
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    return folder


def export(
    out: Path,
    items: Any,
    encoder: Path,
    args: tuple[str, ...] = IN_PROCESS,
    previous: Any = None,
    **properties: Any,
) -> Any:
    model, made = standard_artifacts.Model(), ItemEmbeddings()
    model.uri, made.uri = str(encoder), str(out / "embeddings")
    Path(made.uri).mkdir(parents=True)
    defaults = {"batch_size": 8, "dtype": "int8"}
    inputs = {"items": [items], "encoder": [model]} | ({"previous": [previous]} if previous else {})
    executor(Executor, args).Do(inputs, {"embeddings": [made]}, defaults | properties)
    return made


def counts(made: Any) -> dict[str, int]:
    found: dict[str, int] = json.loads(made.get_string_custom_property("counts"))
    return found


def test_every_item_once_and_each_content_once(tmp_path: Path, encoder: Path) -> None:
    items = run_catalogue(shop(tmp_path / "shop"), tmp_path)
    made = export(tmp_path / "one", items, encoder)
    snapshot = Snapshot.load(made.uri)
    assert snapshot.item_ids.tolist() == [f"i{n:03d}" for n in range(60)]
    contents = {h for h, m in zip(snapshot.content_hashes, snapshot.modalities, strict=True) if m}
    without = int((snapshot.modalities == 0).sum())
    assert without == 6  # 10, 21, …, 54, and the one after 43 that shares nothing
    told = counts(made)
    assert told["contents encoded"] == len(contents)
    assert told["items without content"] == without
    assert told["items of shared content"] == 60 - without - len(contents) > 5
    assert told["items copied"] == 0
    assert not np.any(snapshot.vectors[snapshot.modalities == 0])

    served = tf.saved_model.load(str(encoder / "Format-Serving")).signatures["embed_examples"]
    place = {item_id.encode(): row for row, item_id in enumerate(snapshot.item_ids)}
    for split in ("train", "valid"):
        for file in (Path(items.uri) / f"Split-{split}").iterdir():
            answer = served(examples=tf.constant(list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator())))
            rows = [place[item] for item in answer["item_id"].numpy()]
            np.testing.assert_allclose(restore_vectors(snapshot.vectors[rows]), answer["embedding"], atol=0.6 / 127)
    assert not (tmp_path / "one/embeddings.part").exists()


def test_the_next_export_encodes_only_what_is_new(tmp_path: Path, encoder: Path) -> None:
    first = export(tmp_path / "one", run_catalogue(shop(tmp_path / "shop"), tmp_path / "a"), encoder)
    changed = shop(tmp_path / "later", changed=(1, 7), items=62)
    second = export(tmp_path / "two", run_catalogue(changed, tmp_path / "b"), encoder, previous=first)
    told, before, after = counts(second), Snapshot.load(first.uri), Snapshot.load(second.uri)
    assert told["contents encoded"] == 4  # two changed, two new
    assert told["items copied"] == 60 - 2 - told["items without content"]
    same = [n for n in range(60) if n not in (1, 7)]
    np.testing.assert_array_equal(after.vectors[same], before.vectors[same])
    assert np.any(after.vectors[[1, 7]] != before.vectors[[1, 7]], axis=1).all()
    assert find_snapshot(second.uri) == Path(second.uri)

    other = tmp_path / "other"
    export_tiny_encoder(other / "Format-Serving", seed=2)
    assert (
        counts(export(tmp_path / "three", run_catalogue(changed, tmp_path / "c"), other, previous=second))[
            "items copied"
        ]
        == 0
    )
    half = export(tmp_path / "four", run_catalogue(changed, tmp_path / "d"), encoder, previous=second, dtype="float16")
    assert counts(half)["items copied"] == 0
    assert Snapshot.load(half.uri).vectors.dtype == np.float16
    np.testing.assert_allclose(Snapshot.load(half.uri).vectors, restore_vectors(after.vectors), atol=0.6 / 127)


def test_a_lost_snapshot_is_made_again(tmp_path: Path, encoder: Path) -> None:
    items = run_catalogue(shop(tmp_path / "shop"), tmp_path)
    first = export(tmp_path / "one", items, encoder)
    (Path(first.uri) / "manifest.json").unlink()
    assert counts(export(tmp_path / "two", items, encoder, previous=first))["items copied"] == 0
    with pytest.raises(ReleaseError, match="neither a snapshot .* nor the root of a run"):
        find_snapshot(tmp_path / "shop")


def test_several_processes_make_the_same_snapshot(tmp_path: Path, encoder: Path) -> None:
    items = run_catalogue(shop(tmp_path / "shop"), tmp_path)
    one = Snapshot.load(export(tmp_path / "one", items, encoder).uri)
    args = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    two = Snapshot.load(export(tmp_path / "two", items, encoder, args).uri)
    assert two.item_ids.tolist() == one.item_ids.tolist()
    assert two.content_hashes.tolist() == one.content_hashes.tolist()
    np.testing.assert_allclose(two.vectors, one.vectors, atol=1)  # batches of other sizes round otherwise


def test_flink_makes_the_same_snapshot(tmp_path: Path, encoder: Path, flink: tuple[str, ...]) -> None:
    items = run_catalogue(shop(tmp_path / "shop"), tmp_path)
    one = export(tmp_path / "one", items, encoder)
    two = export(tmp_path / "two", items, encoder, flink)
    first, second = Snapshot.load(one.uri), Snapshot.load(two.uri)
    assert second.item_ids.tolist() == first.item_ids.tolist()
    assert second.content_hashes.tolist() == first.content_hashes.tolist()
    np.testing.assert_array_equal(second.vectors, first.vectors)
    assert counts(two) == counts(one)


def test_ready_made_embeddings_are_content(tmp_path: Path) -> None:
    """Of items with the same words: what differs is their embedding; one item has nothing else."""
    towers = (EmbeddingTowerConfig("clip", 3),)
    export_tiny_encoder(tmp_path / "encoder/Format-Serving", config=replace(preset("tiny").encoder, embeddings=towers))
    vectors = [[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], None, [0, 0, 1.0], None]
    titles = ["mug"] * 4 + [None, None]
    (tmp_path / "shop").mkdir()
    table = {"item_id": [f"i{n}" for n in range(6)], "title": titles, "clip": vectors}
    pq.write_table(pa.table(table), tmp_path / "shop/items.parquet")
    schema = Schema.from_yaml("items: {columns: {clip: {type: embedding, dim: 3}}}").to_json()
    items = run_catalogue(tmp_path / "shop", tmp_path, schema=schema)
    made = export(tmp_path / "one", items, tmp_path / "encoder")
    snapshot, found = Snapshot.load(made.uri), counts(made)
    assert found["contents encoded"] == 4
    assert found["items of shared content"] == 1
    assert found["items without content"] == 1
    different = {vector.tobytes() for vector in snapshot.vectors}
    assert len(different) == 5  # i0 and i2 share theirs
    np.testing.assert_array_equal(snapshot.vectors[0], snapshot.vectors[2])
    assert snapshot.modalities.tolist() == [2, 2, 2, 2, 2, 0]
