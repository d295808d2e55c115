"""Daily folders: which days are read, what is counted once, and what a missing day does."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.columns import take
from components.contract.files import Spans, find_table
from components.contract.repeated import merge_repeated
from components.contract.schema import Schema
from components.contract.tables import ContractError
from tests.components.runner import read, run_catalogue, run_impressions, run_pairs

FIRST, DAY = 20_454, 86_400  # days from 1970 to 2026-01-01


def row(day: int, number: int, **changes: Any) -> dict[str, Any]:
    moment = (FIRST + day) * DAY + 60 * number
    plain = {"user_id": f"u{number % 3}", "item_id": f"i{number % 4}", "timestamp": moment, "clicked": number % 2}
    return {**plain, "sequence": number, **changes}


def deliver(data: Path, day: int, rows: list[dict[str, Any]], table: str = "impressions", part: int = 0) -> None:
    folder = data / table / f"2026-01-{day + 1:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{part}.parquet")


def spans_read(data: Path, **options: Any) -> list[str]:
    found = find_table(str(data), "impressions", spans=Spans("{SPAN}", **options))
    return [path.split("/")[-2][-2:] for path in found]


@pytest.fixture
def catalogue(tmp_path: Path) -> Any:
    items = [{"item_id": f"i{n}", "title": f"title {n}"} for n in range(4)]
    deliver(tmp_path, 0, items, "items")
    return run_catalogue(tmp_path, tmp_path / "out")


def account(made: Any) -> dict[str, int]:
    return json.loads(made.get_string_custom_property("counts"))


def test_every_row_of_a_log_counts_once(tmp_path: Path, catalogue: Any) -> None:
    """A late row, a day that is delivered again with a click more, and a day without files that is allowed."""
    days = [[row(day, n) for n in range(10)] for day in range(5)]
    late, days[1] = days[1][9], days[1][:9]
    for day in (0, 1, 2, 4):
        deliver(tmp_path, day, [*days[day], *([late] if day == 2 else [])])
    again = [{**one, "clicked": 1} if one["sequence"] == 4 else one for one in days[2]]
    deliver(tmp_path, 4, again, part=1)
    spans = {"pattern": "{SPAN}", "window": 4, "missing": "allow"}
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, spans=json.dumps(spans))
    found = [one for split in ("train", "valid", "test") for one in read(made, split)]
    expected = [*days[1], late, *days[2][:4], {**days[2][4], "clicked": 1}, *days[2][5:], *days[4]]
    assert sorted(found, key=lambda one: one["timestamp"]) == expected
    assert account(made) == {
        "rows in": 40,
        "rows out": 30,
        "dropped: the row repeats another one": 10,
        "noted: of a date before that of the span": 11,
        "spans read": 3,
        "spans missing": 1,
    }
    kept = Schema.from_yaml("policies: {repeated_rows: keep}").to_json()
    made = run_impressions(tmp_path, tmp_path / "kept", catalogue, spans=json.dumps(spans), schema=kept)
    assert account(made)["rows out"] == 40


def test_intents_count_once(tmp_path: Path, catalogue: Any) -> None:
    deliver(tmp_path, 0, [row(0, n) for n in range(10)])
    asked = [{"query_text": f"word {n}", "item_id": f"i{n}", "timestamp": FIRST * DAY + n} for n in range(4)]
    deliver(tmp_path, 0, asked, "intents")
    deliver(tmp_path, 1, [*asked[:3], {**asked[3], "query_text": "other"}], "intents")
    made = run_impressions(tmp_path, tmp_path / "out", catalogue)
    pairs = run_pairs(tmp_path, tmp_path / "out", catalogue, made, spans='{"pattern": "{SPAN}"}')
    assert account(pairs) == {"rows in": 8, "rows out": 5, "dropped: the row repeats another one": 3}


def test_the_days_of_a_window(tmp_path: Path) -> None:
    for day in (0, 1, 2, 4, 5):
        deliver(tmp_path, day, [row(day, 0)])
    assert spans_read(tmp_path, window=2) == ["05", "06"]
    assert spans_read(tmp_path, window=30, until="2026-01-03") == ["01", "02", "03"], "the log begins there"
    assert spans_read(tmp_path, window=2, until="20260102") == ["01", "02"]
    with pytest.raises(ContractError, match=r"1 of the 4 days .* 2026-01-02 to 2026-01-05, have no files: 2026-01-04"):
        spans_read(tmp_path, window=4, until="2026-01-05")
    assert spans_read(tmp_path, window=4, missing="allow") == ["03", "05", "06"], "a window is days, not folders"
    with pytest.raises(ContractError, match="until is 2026-01-04, and there is no such span; there are 5, 2026-01-01"):
        spans_read(tmp_path, until="2026-01-04", missing="allow")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "impressions.parquet")
    with pytest.raises(ContractError, match=r"impressions.parquet lies in no span, so that nothing says what"):
        spans_read(tmp_path, until="2026-01-02")


def test_daily_files(tmp_path: Path) -> None:
    (tmp_path / "impressions").mkdir()
    for day in range(3):
        pq.write_table(pa.Table.from_pylist([row(day, 0)]), tmp_path / f"impressions/log-2026-01-0{day + 1}.parquet")
    found = find_table(str(tmp_path), "impressions", spans=Spans("log-{SPAN}", 2))
    assert [path[-10:-8] for path in found] == ["02", "03"]
    pq.write_table(pa.Table.from_pylist([row(0, 0)]), tmp_path / "impressions/log-2026-01-02-late.parquet")
    with pytest.raises(ContractError, match=r"log-2026-01-02-late.parquet lies in no span"):
        find_table(str(tmp_path), "impressions", spans=Spans("log-{SPAN}", 2))


def test_a_window_without_any_of_its_days(tmp_path: Path) -> None:
    deliver(tmp_path, 0, [{"query_text": "a", "item_id": "i0", "timestamp": FIRST * DAY}], "intents")
    late = Spans("{SPAN}", 2, "2026-01-05")
    with pytest.raises(ContractError, match="2 of the 2 days that are read, 2026-01-04 to 2026-01-05, have no files"):
        find_table(str(tmp_path), "intents", spans=late)
    assert find_table(str(tmp_path), "intents", spans=Spans("{SPAN}", 2, "2026-01-05", "allow")) == []


def test_deliveries_by_number_have_no_gaps(tmp_path: Path) -> None:
    for number in (8, 9, 12):
        folder = tmp_path / f"impressions/{number}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row(0, number)]), folder / "part-0.parquet")
    assert [path.split("/")[-2] for path in find_table(str(tmp_path), "impressions", spans=Spans("{SPAN}", 2))] == [
        "9",
        "12",
    ]


def test_the_catalogue_of_a_day(tmp_path: Path) -> None:
    for day, ids in enumerate(("ab", "bc", "c")):
        deliver(tmp_path, day, [{"item_id": one, "title": f"{one} of day {day}"} for one in ids], "items")

    def titles(**options: str) -> list[str]:
        out = tmp_path / "-".join(["out", *options.values()])
        made = run_catalogue(tmp_path, out, spans=json.dumps({"pattern": "{SPAN}", **options}))
        return sorted(one["title"] for split in ("train", "valid") for one in read(made, split))

    assert titles() == ["a of day 0", "b of day 1", "c of day 2"]
    assert titles(until="2026-01-02") == ["a of day 0", "b of day 1", "c of day 1"]
    assert titles(catalogue="latest") == ["c of day 2"]
    assert titles(catalogue="latest", until="2026-01-02") == ["b of day 1", "c of day 1"]
    with pytest.raises(ContractError, match="no span is as early; there are 3, 2026-01-01 to 2026-01-03"):
        titles(until="2025-12-31")


def test_a_later_day_replaces_an_earlier_one_however_it_is_written(tmp_path: Path) -> None:
    for day, title in (("2026-9-30", "old"), ("2026-10-1", "new")):  # as text, 10 comes before 9
        folder = tmp_path / f"items/{day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"item_id": ["a"], "title": [title]}), folder / "part-0.parquet")
    made = run_catalogue(tmp_path, tmp_path / "out", spans='{"pattern": "{SPAN}"}')
    assert [one["title"] for split in ("train", "valid") for one in read(made, split)] == ["new"]


few = st.lists(st.tuples(*(st.integers(0, most) for most in (2, 2, 2, 1, 1))), min_size=1, max_size=30)


@given(few, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_merging_equals_a_naive_pass(log: list[tuple[int, ...]], chance: random.Random) -> None:
    names = ("user_id", "item_id", "timestamp", "clicked", "ordered")
    columns = {name: pa.array(values) for name, values in zip(names, zip(*log, strict=True), strict=True)}
    order = np.array(chance.sample(range(len(log)), len(log)))
    merged, repeated = merge_repeated(take(columns, order), ("clicked", "ordered"))
    expected: dict[tuple[int, ...], tuple[int, int]] = {}
    for *key, clicked, ordered in log:
        before = expected.get(tuple(key), (0, 0))
        expected[tuple(key)] = (max(before[0], clicked), max(before[1], ordered))
    found = list(zip(*(merged[name].to_pylist() for name in names), strict=True))
    assert sorted(found) == sorted((*key, *labels) for key, labels in expected.items())
    assert repeated == len(log) - len(expected)
