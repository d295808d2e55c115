"""The components on a small shop, against plain Python over the same rows."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contract.schema import Schema
from components.new_items import launched_late
from tests.components.runner import read, run_catalogue, run_histories, run_impressions, run_pairs

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def made(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("made")
    items = run_catalogue(shop, out)
    impressions = run_impressions(shop, out, items)
    return {
        "items": items,
        "impressions": impressions,
        "examples": run_histories(shop, out, impressions),
        "pairs": run_pairs(shop, out, items, impressions),
        "history_pairs": run_pairs(shop, out / "second", items, impressions, source="history"),
    }


def rows_of(artifact: Any) -> dict[str, list[dict[str, Any]]]:
    return {split: read(artifact, split) for split in SPLITS}


def test_every_impression_is_in_one_split_and_splits_do_not_overlap(shop: Path, made: dict[str, Any]) -> None:
    splits = rows_of(made["impressions"])
    times = {split: [row["timestamp"] for row in rows] for split, rows in splits.items()}
    assert max(times["train"]) < min(times["valid"]) <= max(times["valid"]) < min(times["test"])
    original = pq.read_table(shop / "impressions.parquet").to_pylist()
    key = lambda row: (row["user_id"], row["item_id"], row["timestamp"], row["clicked"], row["sequence"])  # noqa: E731
    assert sorted(key(row) for rows in splits.values() for row in rows) == sorted(map(key, original))
    assert len(splits["train"]) == pytest.approx(0.8 * len(original), abs=20)


def test_split_by_user_takes_each_users_first_rows(shop: Path, made: dict[str, Any], tmp_path: Path) -> None:
    split = '{"by": "user", "fractions": [0.7, 0.1, 0.2], "new_items": 0}'
    splits = rows_of(run_impressions(shop, tmp_path, made["items"], split=split))
    by_user: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for name, rows in splits.items():
        for row in rows:
            by_user[row["user_id"]][name].append((row["timestamp"], row["sequence"]))
    for parts in by_user.values():
        n = sum(len(rows) for rows in parts.values())
        assert len(parts["train"]) == int(n * 0.7 + 1e-9)
        assert len(parts["train"]) + len(parts["valid"]) == int(n * 0.8 + 1e-9)
        ends = [rows for name in SPLITS if (rows := parts[name])]
        assert all(max(a) < min(b) for a, b in itertools.pairwise(ends))


def test_histories_are_those_of_the_moment(made: dict[str, Any]) -> None:
    splits = rows_of(made["examples"])
    everything = [row for rows in splits.values() for row in rows]
    clicks = defaultdict(list)
    for row in everything:
        if row["clicked"]:
            clicks[row["user_id"]].append((row["timestamp"], row["sequence"], row["item_id"]))
    for row in everything:
        now = (row["timestamp"], row["sequence"])
        earlier = sorted(click for click in clicks[row["user_id"]] if click[:2] < now)[-5:]
        assert row["history_item_ids"] == [click[2] for click in earlier]
        assert row["history_ages"] == [row["timestamp"] - click[0] for click in earlier]


def test_items_launched_with_the_test_are_nowhere_before(shop: Path, made: dict[str, Any], tmp_path: Path) -> None:
    split = '{"by": "user", "fractions": [0.7, 0.1, 0.2], "new_items": 5}'
    impressions = run_impressions(shop, tmp_path, made["items"], split=split)
    everything = run_impressions(shop, tmp_path / "all", made["items"], split=split.replace("5}", "0}"))
    late = {row["item_id"] for row in rows_of(everything)["test"] if launched_late(pa.array([row["item_id"]]), 5)[0]}
    assert late
    expected = {
        split: [row for row in rows if split == "test" or row["item_id"] not in late]
        for split, rows in rows_of(everything).items()
    }
    found = rows_of(impressions)
    key = lambda row: sorted(row.items())  # noqa: E731
    assert {split: sorted(map(key, rows)) for split, rows in found.items()} == {
        split: sorted(map(key, rows)) for split, rows in expected.items()
    }
    counts = json.loads(impressions.get_string_custom_property("counts"))
    assert counts["rows out"] == sum(map(len, found.values()))
    assert counts["rows in"] == counts["rows out"] + counts["rows held back: the item is launched with the test"]

    for split, rows in rows_of(run_histories(shop, tmp_path, impressions, new_items=5)).items():
        assert not any(late & set(row["history_item_ids"]) for row in rows)
        assert all(row["launched"] == ("new" if row["item_id"] in late else "known") for row in rows)
        assert split == "test" or {row["launched"] for row in rows} == {"known"}


@pytest.mark.parametrize("form", ["{}", "sku-{}", "{}0"])
def test_new_items_know_no_order_and_no_parity(form: str) -> None:
    for numbers in (range(5000), range(0, 10_000, 2), range(1, 10_001, 2)):
        ids = pa.array([form.format(n) for n in numbers])
        assert 0.08 < launched_late(ids, 10).mean() < 0.12
        assert 0.46 < launched_late(ids, 2).mean() < 0.54
    assert launched_late(pa.array(["a", "b", "a"], pa.binary()), 2)[[0, 2]].tolist() in ([True] * 2, [False] * 2)
    assert (launched_late(ids.cast(pa.binary()), 10) == launched_late(ids, 10)).all()
    assert not launched_late(ids, 0).any()


def test_segments_come_from_training_clicks_alone(made: dict[str, Any]) -> None:
    splits = rows_of(made["examples"])
    clicks: dict[str, int] = defaultdict(int)
    for row in splits["train"]:
        clicks[row["item_id"]] += row["clicked"]
    limit = sorted(clicks.values())[(len(clicks) - 1) // 2]
    for rows in splits.values():
        for row in rows:
            n = clicks[row["item_id"]]
            assert row["segment"] == ("cold" if n <= 5 else "tail" if n <= limit else "rest")


def test_pairs_come_from_the_training_window(made: dict[str, Any]) -> None:
    impressions = rows_of(made["impressions"])
    end = min(row["timestamp"] for split in SPLITS[1:] for row in impressions[split])
    for name in ("pairs", "history_pairs"):
        pairs = [row for split in ("train", "valid") for row in read(made[name], split)]
        assert pairs
        assert max(row["timestamp"] for row in pairs) < end
    assert all(row["query_text"] or row["query_image"] for row in read(made["pairs"], "train"))
    clicked = {(row["item_id"]) for row in impressions["train"] if row["clicked"]}
    for row in read(made["history_pairs"], "train"):
        assert {*row["query_item_ids"], row["item_id"]} <= clicked
        assert row["query_item_ids"] != [row["item_id"]]


def test_intents_end_before_the_very_second_of_the_first_held_out_row(
    shop: Path, made: dict[str, Any], tmp_path: Path
) -> None:
    impressions = rows_of(made["impressions"])
    end = min(row["timestamp"] for split in SPLITS[1:] for row in impressions[split])
    item = impressions["train"][0]["item_id"]
    times = [end - 1, end, end + 1] * 20
    intents = {"item_id": [item] * 60, "timestamp": times, "query_text": [f"words {n}" for n in range(60)]}
    pq.write_table(pa.table(intents), tmp_path / "intents.parquet")
    pairs = run_pairs(tmp_path, tmp_path / "out", made["items"], made["impressions"], source="intents")
    found = [row["timestamp"] for split in ("train", "valid") for row in read(pairs, split)]
    assert found == [end - 1] * 20


def test_all_pairs_of_a_user_are_held_out_or_none(shop: Path, made: dict[str, Any], tmp_path: Path) -> None:
    pairs = run_pairs(shop, tmp_path, made["items"], made["impressions"], source="impressions")
    users = {split: {row["user_id"] for row in read(pairs, split)} for split in ("train", "valid")}
    assert users["train"]
    assert users["valid"]
    assert not users["train"] & users["valid"]


def test_profiles_are_joined_and_unknown_users_get_none(shop: Path, made: dict[str, Any], tmp_path: Path) -> None:
    users = sorted({row["user_id"] for row in read(made["impressions"], "train")})
    with (tmp_path / "users.csv").open("w") as file:
        file.write("user_id,city\n" + "".join(f"{user},city of {user}\n" for user in users[:-1]))
    run = run_histories(
        tmp_path,
        tmp_path / "out",
        made["impressions"],
        schema=Schema.from_yaml("users: {columns: {city: city}}").to_json(),
    )
    for row in read(run, "train"):
        assert row["city"] == ("" if row["user_id"] == users[-1] else f"city of {row['user_id']}")
