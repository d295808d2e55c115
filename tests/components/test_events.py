"""Events joined into impressions, against a naive pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract.events import NEVER, VIEW, join_events
from components.contract.schema import Schema
from tests.components.runner import read, run_catalogue, run_histories, run_impressions
from tests.components.test_contract import counts, item, write_impressions, write_items

T0 = 1_700_000_000
SECOND = 1_000_000
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 12),
        st.integers(0, 3),
        st.integers(-1, 1),
        st.integers(-1, 6),
    ),
    max_size=30,
)


def naive(table: list[tuple[int, ...]], windows: tuple[int, ...]) -> tuple[list[tuple[Any, ...]], int, int, int]:
    """(user, item, time, when each label was set) of each view, and how many events repeat, are joined, and stand
    alone."""
    kept, seen = [], set()
    for user, of, time, kind, request, event_id in sorted(table, key=lambda row: (row[2], row[1], row[3], row[4])):
        key = ("id", user, event_id) if event_id >= 0 else (user, of, time, kind, request)
        if key not in seen:
            seen.add(key)
            kept.append((user, of, time, kind, request))
    views = sorted((one for one in kept if one[3] == VIEW), key=lambda one: one[2])
    labelled_at: dict[tuple[int, int], int] = {}
    joined = alone = 0
    for event in (one for one in kept if one[3] != VIEW):
        stands_alone = True
        for label, window in enumerate(windows):
            near = [
                place
                for place, view in enumerate(views)
                if view[:2] == event[:2] and 0 <= event[2] - view[2] <= window * SECOND
            ]
            if not near or not event[3] >> label & 1:
                continue
            stands_alone = False
            same = [place for place in near if event[4] >= 0 and views[place][4] == event[4]]
            latest = max(views[place][2] for place in same or near)
            key = [place for place in same or near if views[place][2] == latest][-1], label
            labelled_at[key] = min(labelled_at.get(key, NEVER), event[2])
        joined, alone = joined + (not stands_alone), alone + stands_alone
    found = [
        (*view[:3], tuple(labelled_at.get((place, label), NEVER) for label in range(len(windows))))
        for place, view in enumerate(views)
    ]
    return found, len(table) - len(kept), joined, alone


@given(EVENTS, st.tuples(st.integers(1, 6), st.integers(1, 12)), st.randoms())
@settings(max_examples=400, deadline=None)
def test_each_labelled_event_belongs_to_the_latest_view_of_its_item(
    table: Any, windows: tuple[int, int], chance: Any
) -> None:
    # No two views of an item are at one moment: which is the later is then known.
    moments: dict[tuple[int, ...], int] = {}
    table = [row for row in table if row[3] != VIEW or moments.setdefault(row[:3], hash(row[4:])) == hash(row[4:])]
    chance.shuffle(table)
    columns = [np.array(column, np.int64) for column in zip(*table, strict=True)] or [np.zeros(0, np.int64)] * 6
    user, of, time, kind, request, event_id = columns
    found = join_events(user, of, time * SECOND, kind, request, event_id, np.zeros_like(user), windows)
    expected, repeated, joined, alone = naive([(*row[:2], row[2] * SECOND, *row[3:]) for row in table], windows)
    rows = zip(user[found.views], of[found.views], time[found.views] * SECOND, found.labelled_at.tolist(), strict=True)
    assert Counter((int(a), int(b), int(c), tuple(d)) for a, b, c, d in rows) == Counter(expected)
    assert sum(found.dropped.values()) == repeated + joined + alone == len(table) - len(expected)
    assert found.dropped["a labelled event, joined to its view"] == joined


SCHEMA = Schema.from_yaml(
    """
    events:
      columns: {user_id: visitor, item_id: sku, timestamp: when, event: what, request_id: request, device: device}
      view: [seen]
      labels: {clicked: [opened]}
      window_seconds: 60
    """
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    write_items(folder, [item(n) for n in range(5)])
    return run_catalogue(folder, folder / "out")


def event(visitor: str, sku: str, seconds: float, what: str, **more: Any) -> dict[str, Any]:
    when = int((T0 + seconds) * 1000)
    return {"visitor": visitor, "sku": sku, "when": when, "what": what, "request": "", "device": "phone", **more}


def test_a_log_of_events_becomes_impressions_and_histories(tmp_path: Path, catalogue: Any) -> None:
    rows = [event("a", f"i{n % 5}", 100 * n, "seen") for n in range(20)]
    rows += [
        event("a", "i1", 130, "opened"),  # 30 s after its view
        event("a", "i1", 130, "opened"),  # sent twice
        event("a", "i2", 261, "opened"),  # too late
        event("a", "i3", 310, "paid"),
        event("a", "gone", 300, "seen"),
        event("", "i3", 300, "seen"),
        event("a", "i0", 0.25, "opened"),
    ]
    write_impressions(tmp_path, rows, "events.csv")
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, schema=SCHEMA.to_json())
    assert counts(tmp_path / "out", "impressions") == {
        "rows in": 27,
        "rows out": 20,
        "rejected: no user_id": 1,
        "dropped: item_id is not in the catalogue": 1,
        "dropped: event 'paid' is neither in events.view nor in events.labels": 1,
        "dropped: the event repeats another one": 1,
        "dropped: a labelled event without a view in the window before it": 1,
        "dropped: a labelled event, joined to its view": 2,
    }
    found = {row["timestamp"] - T0: row for split in ("train", "valid", "test") for row in read(made, split)}
    assert [second for second, row in sorted(found.items()) if row["clicked"]] == [0, 100]
    assert found[100]["clicked_at"] - T0 == 130
    assert found[0]["device"] == "phone"
    examples = run_histories(tmp_path, tmp_path / "out", made, schema=SCHEMA.to_json())
    histories = {row["timestamp"] - T0: row for row in read(examples, "train")}
    assert histories[100]["history_item_ids"] == ["i0"]
    assert histories[200]["history_item_ids"] == ["i0", "i1"]
    assert histories[200]["history_ages"] == [200, 70]
    assert "clicked_at" not in histories[200]


def test_events_in_any_order_and_of_other_users_with_the_same_ids(tmp_path: Path, catalogue: Any) -> None:
    rows = [event(f"v{n % 4}", f"i{n % 5}", 10 * (n // 4), "seen", event=str(n // 4)) for n in range(80)]
    rows += [event("v1", "i1", 0, "seen", event="0", device="tablet"), event("v0", "i0", 5, "opened", event="o")]
    schema = Schema.from_json(
        SCHEMA.to_json().replace('"request_id": {"column": "request"', '"event_id": {"column": "event"')
    )
    found = []
    for place, order in enumerate((rows, rows[::-1])):
        folder = tmp_path / str(place)
        folder.mkdir()
        write_impressions(folder, order, "events.csv")
        made = run_impressions(folder, folder / "out", catalogue, schema=schema.to_json())
        found.append([row for split in ("train", "valid", "test") for row in read(made, split)])
    one, other = (sorted(str(sorted(row.items())) for row in part) for part in found)
    assert one == other
    assert len(one) == 80
    assert sum(row["clicked"] for row in found[0]) == 1
    assert {row["device"] for row in found[0]} == {"phone"}


def test_events_that_differ_in_anything_are_two(tmp_path: Path, catalogue: Any) -> None:
    rows = [event("a", f"i{n % 5}", n, "seen") for n in range(40)]
    rows += [event("a", "i1", 1, "seen", device="tablet"), event("a", "i2", 2, "seen")]
    write_impressions(tmp_path, rows, "events.csv")
    run_impressions(tmp_path, tmp_path / "out", catalogue, schema=SCHEMA.to_json())
    found = counts(tmp_path / "out", "impressions")
    assert found == {"rows in": 42, "rows out": 41, "dropped: the event repeats another one": 1}


def test_an_event_may_set_several_labels_each_in_its_own_window(tmp_path: Path, catalogue: Any) -> None:
    labels = "labels: {clicked: [opened, paid], ordered: {events: [paid], window_seconds: 3600}}"
    schema = Schema.from_yaml(
        "events: {columns: {user_id: visitor, item_id: sku, timestamp: when, event: what}, view: [seen], "
        f"window_seconds: 60, {labels}}}"
    )
    assert schema.labels == ("clicked", "ordered")
    assert Schema.from_json(schema.to_json()) == schema
    rows = [event("a", f"i{n % 5}", 10_000 * n, "seen") for n in range(20)]
    rows += [
        event("a", "i1", 10_030, "opened"),
        event("a", "i1", 10_200, "paid"),  # too late for a click, not for an order
        event("a", "i2", 20_040, "paid"),  # an order says that there was a click
        event("a", "i3", 39_000, "paid"),  # too late for both
    ]
    write_impressions(tmp_path, rows, "events.csv")
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, schema=schema.to_json())
    found = {row["timestamp"] - T0: row for split in ("train", "valid", "test") for row in read(made, split)}
    clicked, ordered = (sorted(second for second, row in found.items() if row[name]) for name in ("clicked", "ordered"))
    assert (clicked, ordered) == ([10_000, 20_000], [10_000, 20_000])
    assert found[20_000]["clicked_at"] - T0 == 20_040
    assert counts(tmp_path / "out", "impressions")["dropped: a labelled event, joined to its view"] == 3


def test_a_lag_keeps_clicks_out_of_histories(tmp_path: Path, catalogue: Any) -> None:
    rows = [event("a", f"i{n % 5}", 100 * n, "seen") for n in range(20)] + [event("a", "i1", 130, "opened")]
    write_impressions(tmp_path, rows, "events.csv")
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, schema=SCHEMA.to_json())
    late = Schema.from_yaml("policies: {ingestion_lag_seconds: 150}").to_json()
    histories = {
        row["timestamp"] - T0: row
        for row in read(run_histories(tmp_path, tmp_path / "out", made, schema=late), "train")
    }
    assert histories[200]["history_item_ids"] == []
    assert histories[300]["history_item_ids"] == ["i1"]
