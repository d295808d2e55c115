"""Attributes learned from content: what users differ in, whatever the order, and nothing of an item is lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts

from components.content_attributes import user_effects
from components.content_attributes.describe import describe_images, has_blanks
from components.content_attributes.executor import Executor
from components.content_attributes.learned import WORDS_OF_ITEM, Sample, join, learn_attributes
from components.content_attributes.user_effects import Activity, best_attribute, values_that_matter
from components.contract.schema import Schema
from components.item_attributes import LEARNED
from tests.components.runner import run_catalogue, run_impressions
from tfx_pipeline.settings import ConfigError, Settings

COLORS, THINGS = ((200, 30, 30), (30, 160, 40), (40, 50, 210)), ("mug", "lamp", "chair", "scarf")
ADJECTIVES = ("small", "plain", "round", "classic", "soft")
ITEMS, USERS = 120, 60


def png(color: tuple[int, int, int], rng: np.random.Generator) -> bytes:
    pixels = np.clip(np.array(color) + rng.normal(0, 6, (16, 16, 3)), 0, 255).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def rows(count: int = ITEMS) -> list[dict[str, Any]]:
    """Colour and thing vary apart; each seventh has no picture, each eleventh no text."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        title = "" if n % 11 == 10 else f"{ADJECTIVES[n % 5]} {THINGS[n % 4]} for home"
        made.append({"item_id": f"i{n:03d}", "title": title, "image": None if n % 7 == 6 else png(COLORS[n % 3], rng)})
    return made


def log(tastes: bool, seed: int = 0, count: int = 6_000) -> dict[str, np.ndarray]:
    """Impressions of users who like one colour and one thing each, or who click by chance."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, USERS, count), rng.integers(0, ITEMS, count)
    rate = np.where((item % 3 == user % 3) & tastes, 0.3, 0.1) + np.where((item % 4 == user // 3 % 4) & tastes, 0.3, 0)
    return {"user": user, "item": item, "clicked": (rng.random(count) < rate).astype(int)}


def activity_of(found: dict[str, np.ndarray]) -> Activity:
    ids = [f"i{n:03d}".encode() for n in range(ITEMS)]
    columns = {
        "user_id": pa.array([f"u{n}".encode() for n in found["user"]], pa.binary()),
        "item_id": pa.array([ids[n] for n in found["item"]], pa.binary()),
        "clicked": pa.array(found["clicked"]),
    }
    half = len(found["item"]) // 2
    parts = [{name: one[some] for name, one in columns.items()} for some in (slice(half), slice(half, None))]
    return Activity.of_impressions(parts, pa.array(ids, pa.binary()))


def described(folder: Path, table: list[dict[str, Any]], tastes: bool = True) -> dict[str, tf.train.Example]:
    """The examples by item."""
    (folder / "shop").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(table), folder / "shop/items.parquet")
    found = log(tastes)
    impressions = {
        "user_id": [f"u{n}" for n in found["user"]],
        "item_id": [f"i{n:03d}" for n in found["item"]],
        "timestamp": np.arange(len(found["user"])) * 60 + 1_700_000_000,
        "clicked": found["clicked"],
    }
    pq.write_table(pa.table(impressions), folder / "shop/impressions.parquet")
    items, made = run_catalogue(folder / "shop", folder), standard_artifacts.Examples()
    shown = run_impressions(folder / "shop", folder, items)
    made.uri = str(folder / "described")
    inputs = {"items": [items], "impressions": [shown]}
    Executor().Do(inputs, {"described": [made]}, {"clusters": 32, "words": 10})
    assert made.split_names == items.split_names
    examples = {}
    for split in ("train", "valid"):
        files = [str(file) for file in (folder / f"described/Split-{split}").iterdir()]
        assert len(files) == len(list((Path(items.uri) / f"Split-{split}").iterdir()))
        for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            examples[value_of(example, "item_id")] = example
    return examples


def value_of(example: tf.train.Example, name: str) -> str:
    return str(example.features.feature[name].bytes_list.value[0].decode())


def test_items_have_the_clusters_and_words_in_which_users_differ(tmp_path: Path) -> None:
    table = rows()
    found = described(tmp_path, table)
    assert set(found) == {row["item_id"] for row in table}
    of_cluster: dict[str, set[int]] = {}
    for n in range(len(table)):
        example = found[f"i{n:03d}"]
        cluster = value_of(example, "image_cluster")
        assert (cluster == "") == (n % 7 == 6)
        assert value_of(example, "text_words") == ("" if n % 11 == 10 else THINGS[n % 4])
        if cluster:
            of_cluster.setdefault(cluster, set()).add(n % 3)
    assert all(len(color) == 1 for color in of_cluster.values()), of_cluster
    assert 3 <= len(of_cluster) <= 16, "of 32 clusters each would know less of a user"
    assert value_of(found["i000"], "title") == "small mug for home"
    assert found["i000"].features.feature["image"].bytes_list.value[0]


def test_users_who_click_by_chance_differ_in_nothing(tmp_path: Path) -> None:
    for example in described(tmp_path, rows(), tastes=False).values():
        assert value_of(example, "image_cluster") == value_of(example, "text_cluster") == ""
        assert value_of(example, "text_words") in ("", "round"), "one word in twenty may be found by chance"


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    one, other = described(tmp_path / "one", rows()), described(tmp_path / "other", rows()[::-1])
    for item, example in one.items():
        assert example == other[item]


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_not_taken_for_taste(seed: int) -> None:
    """Users click at their own rates, items at theirs, and a thousand words mean nothing."""
    rng = np.random.default_rng(seed)
    found = log(False, seed)
    rate = 0.3 * rng.random(USERS)[found["user"]] + 0.3 * rng.random(ITEMS)[found["item"]]
    found["clicked"] = (rng.random(len(rate)) < rate).astype(int)
    words = sp.csr_matrix((rng.random((ITEMS, 1_000)) < 0.1).astype(np.float32))
    assert len(values_that_matter(activity_of(found), words)) <= 3
    groups = [sp.csr_matrix(np.eye(k, dtype=np.float32)[rng.integers(0, k, ITEMS)]) for k in (4, 8, 16)]
    assert best_attribute(activity_of(found), groups) is None


def test_the_level_that_tells_most_is_taken() -> None:
    activity = activity_of(log(True))
    levels = [np.zeros(ITEMS, int), np.arange(ITEMS) % 3, np.arange(ITEMS) % 12, np.arange(ITEMS)]
    members = [sp.csr_matrix(np.eye(level.max() + 1, dtype=np.float32)[level]) for level in levels]
    assert best_attribute(activity, members) == 2, "colour and thing; items one by one are too many"
    assert best_attribute(activity, members[:2]) == 1
    assert best_attribute(activity, members[:1]) is None


@pytest.mark.parametrize("seed", range(3))
def test_users_who_see_what_they_click_anyway_do_not_differ(seed: int) -> None:
    """Things differ in their click rates alone; each user is shown one of them mostly."""
    rng = np.random.default_rng(seed)
    things, count = 12, 12_000
    user = rng.integers(0, 200, count)
    thing = np.where(rng.random(count) < 0.7, user % things, rng.integers(0, things, count))
    item = thing + things * rng.integers(0, ITEMS // things, count)
    clicked = (rng.random(count) < np.linspace(0.05, 0.6, things)[thing]).astype(int)
    activity = activity_of({"user": user, "item": item, "clicked": clicked})
    members = sp.csr_matrix(np.eye(things, dtype=np.float32)[np.arange(ITEMS) % things])
    assert len(values_that_matter(activity, members)) == 0
    assert best_attribute(activity, [members]) is None


def test_one_giant_user_does_not_push_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = log(True)
    found["user"][::2] = 7  # what a shop writes for all who are not known
    monkeypatch.setattr(user_effects, "MAX_ROWS", 4_000)
    monkeypatch.setattr(user_effects, "MAX_ROWS_OF_USER", 200)
    shown = activity_of(found).shown
    assert shown.shape[0] > USERS / 2
    assert shown.sum(axis=1).max() <= 200


def test_of_a_long_log_some_users_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found = log(True)
    whole = activity_of(found)
    assert whole.shown.sum() == len(found["user"])
    assert whole.clicked.sum() == found["clicked"].sum()
    monkeypatch.setattr(user_effects, "MAX_ROWS", 2_000)
    part = activity_of(found)
    assert 0 < part.shown.sum() <= 2_000
    per_user = np.asarray(whole.shown.sum(axis=1)).ravel()
    kept = np.asarray(part.shown.sum(axis=1)).ravel()
    assert set(kept) <= set(per_user), "users are kept whole"


@pytest.mark.parametrize(
    "content",
    [
        {"title": [b""] * 4, "text": [b""] * 4, "image": [b""] * 4},
        {"title": [b"one", b"two", b"three", b"four"], "text": [b""] * 4, "image": [b"no picture"] * 4},
        {"title": [b"same"] * 4, "text": [b""] * 4, "image": [b""] * 4},
        {"title": [], "text": [], "image": []},
    ],
)
def test_content_that_tells_nothing_has_no_attribute(content: dict[str, list[bytes]]) -> None:
    count = len(content["title"])
    ids = pa.array([str(n).encode() for n in range(count)], pa.binary())
    activity = Activity.of_impressions([], ids)
    sample = Sample(join(content), describe_images(content["image"]), activity)
    for assign in learn_attributes(sample, 8, 10).values():
        assert set(assign(content)) <= {b""}


def test_words_need_no_blanks_and_like_words_count_once() -> None:
    names = ("马克杯", "台灯", "椅子", "围巾")
    titles = [f"{'大小'[n // 4 % 2]}{names[n % 4]}" for n in range(ITEMS)]
    empty = np.full((ITEMS, 64), np.nan, np.float32)
    activity = activity_of(log(True))
    batch = {"title": [title.encode() for title in titles], "text": [b""] * ITEMS, "image": [b""] * ITEMS}
    found = learn_attributes(Sample(titles, empty, activity), 8, 20)["text_words"](batch)
    for n in range(0, ITEMS, 7):
        own = found[n].decode().split("|")
        assert own[0] in names[n % 4], "the thing before the size"
        assert len([word for word in own if word in names[n % 4]]) == 1, "马克 and 克杯 are the same items"
    batch["text"] = ["大きな台灯".encode()] * ITEMS
    assert not has_blanks(join(batch)), "the blank between title and text divides no words"
    assert has_blanks(["नीला दीपक", "red lamp", "лампа"])
    many = [" ".join(f"{word}{k}" for k in range(9) for word in (THINGS[n % 4],) if n % (k + 2)) for n in range(ITEMS)]
    batch |= {"title": [title.encode() for title in many], "text": [b""] * ITEMS}
    found = learn_attributes(Sample(many, empty, activity), 8, 40)["text_words"](batch)
    assert max(len(own.split(b"|")) for own in found) <= WORDS_OF_ITEM


def test_a_shops_own_column_is_not_overwritten() -> None:
    data = Settings.load("sample", ["data.content_clusters=4"]).data
    assert set(LEARNED) <= set(data.with_learned_attributes(Schema()).items.features("items"))
    with pytest.raises(ConfigError, match="Rename it in shop.yaml, or set data.content_clusters and"):
        data.with_learned_attributes(Schema.from_yaml("items: {columns: {text_cluster: cluster}}"))
    with pytest.raises(ConfigError, match="data.content_clusters is 0, or 2 or more"):
        Settings.load("sample", ["data.content_clusters=1"])
    with pytest.raises(ConfigError, match="data.content_words is 0 or more"):
        Settings.load("sample", ["data.content_words=-1"])
