"""Clusters of pictures and texts: like with like, whatever the order, and nothing of an item is lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts

from components.content_clusters.executor import Executor, describe_images, fit, join
from components.contract.schema import Schema
from components.item_attributes import CLUSTERS
from tests.components.runner import run_catalogue
from tfx_pipeline.settings import ConfigError, Settings

COLORS, THINGS = ((200, 30, 30), (30, 160, 40), (40, 50, 210)), ("mug", "lamp", "chair", "scarf")


def png(color: tuple[int, int, int], rng: np.random.Generator) -> bytes:
    pixels = np.clip(np.array(color) + rng.normal(0, 6, (16, 16, 3)), 0, 255).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Colour and thing vary apart; each seventh has no picture, each eleventh no text."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        color, thing = n % 3, n % 4
        title = "" if n % 11 == 10 else f"{THINGS[thing]} for the {('house', 'garden')[n % 2]}"
        made.append({"item_id": f"i{n:03d}", "title": title, "image": None if n % 7 == 6 else png(COLORS[color], rng)})
    return made


def clustered(folder: Path, table: list[dict[str, Any]]) -> tuple[dict[str, dict[str, str]], list[tf.train.Example]]:
    """Clusters by item, and all examples."""
    (folder / "shop").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(table), folder / "shop/items.parquet")
    items, made = run_catalogue(folder / "shop", folder), standard_artifacts.Examples()
    made.uri = str(folder / "clustered")
    Executor().Do({"items": [items]}, {"clustered": [made]}, {"clusters": 8})
    assert made.split_names == items.split_names
    found, examples = {}, []
    for split in ("train", "valid"):
        files = [str(file) for file in (folder / f"clustered/Split-{split}").iterdir()]
        assert len(files) == len(list((Path(items.uri) / f"Split-{split}").iterdir()))
        for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            value = {name: one.bytes_list.value for name, one in example.features.feature.items()}
            found[value["item_id"][0].decode()] = {name: value[name][0].decode() for name in CLUSTERS}
            examples.append(example)
    return found, examples


def test_a_cluster_is_one_colour_and_one_thing(tmp_path: Path) -> None:
    table = rows()
    found, examples = clustered(tmp_path, table)
    assert set(found) == {row["item_id"] for row in table}
    for name, kinds in (("image_cluster", 3), ("text_cluster", 4)):
        of_cluster: dict[str, set[int]] = {}
        for n in range(len(table)):
            cluster = found[f"i{n:03d}"][name]
            missing = n % 7 == 6 if name == "image_cluster" else n % 11 == 10
            assert (cluster == "") == missing
            if cluster:
                of_cluster.setdefault(cluster, set()).add(n % kinds)
        assert all(len(kind) == 1 for kind in of_cluster.values()), of_cluster
        assert kinds <= len(of_cluster) <= 8
    by_id = {example.features.feature["item_id"].bytes_list.value[0]: example for example in examples}
    assert by_id[b"i000"].features.feature["title"].bytes_list.value[0] == b"mug for the house"
    assert by_id[b"i000"].features.feature["image"].bytes_list.value[0]


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    table = rows()
    one, _ = clustered(tmp_path / "one", table)
    other, _ = clustered(tmp_path / "other", table[::-1])
    assert one == other


@pytest.mark.parametrize(
    "content",
    [
        {"title": [b""] * 4, "text": [b""] * 4, "image": [b""] * 4},
        {"title": [b"one", b"two", b"three", b"four"], "text": [b""] * 4, "image": [b"no picture"] * 4},
        {"title": [b"same"] * 4, "text": [b""] * 4, "image": [b""] * 4},
        {"title": [], "text": [], "image": []},
    ],
)
def test_content_that_tells_nothing_has_no_cluster(content: dict[str, list[bytes]]) -> None:
    for assign in fit(join(content), describe_images(content["image"]), 8).values():
        assert set(assign(content)) <= {b""}


def test_text_without_a_known_word_has_no_cluster_and_words_need_no_blanks() -> None:
    def of(titles: list[str], asked: list[str]) -> list[bytes]:
        none = np.full((len(titles), 64), np.nan, np.float32)
        batch = {"title": [one.encode() for one in asked], "text": [b""] * len(asked), "image": [b""] * len(asked)}
        return fit(titles, none, 4)["text_cluster"](batch)

    known = of(["red mug", "blue mug", "red lamp", "blue lamp"] * 3, ["red mug", "zig zag", "!!!", ""])
    assert [bool(one) for one in known] == [True, False, False, False]
    chinese = of(["绿色马克杯", "红色马克杯", "橡木椅子", "松木椅子"] * 3, ["绿色马克杯", "红色马克杯", "橡木椅子"])
    assert all(chinese)
    assert chinese[0] != chinese[2]


def test_clusters_of_other_items_have_other_names(tmp_path: Path) -> None:
    one, _ = clustered(tmp_path / "one", rows(120))
    other, _ = clustered(tmp_path / "other", rows(150))
    assert not {found["image_cluster"] for found in one.values()} & {
        found["image_cluster"] for found in other.values() if found["image_cluster"]
    }


def test_a_shops_own_column_is_not_overwritten() -> None:
    data = Settings.load("sample", ["data.content_clusters=4"]).data
    assert set(CLUSTERS) <= set(data.with_clusters(Schema()).items.features("items"))
    with pytest.raises(ConfigError, match="Rename it in shop.yaml, or set data.content_clusters to 0"):
        data.with_clusters(Schema.from_yaml("items: {columns: {text_cluster: cluster}}"))
    with pytest.raises(ConfigError, match="data.content_clusters is 0, or 2 or more"):
        Settings.load("sample", ["data.content_clusters=1"])
