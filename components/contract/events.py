"""Joins a log of events into impressions: each view, and whether a click followed it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.columns import Columns, ranks, take
from components.contract.checks import CheckedRows, RowChecker
from components.contract.schema import EventTable, Policies
from components.contract.tables import TableBatch
from components.contract.values import MICROS

VIEW, CLICK, OTHER = 0, 1, 2
NEVER = np.iinfo(np.int64).max


def check_events(
    batch: TableBatch, table: EventTable, policies: Policies, known_items: frozenset[str] | set[str]
) -> CheckedRows:
    """Rows of `events`: user, item, microseconds, what happened (`VIEW` or `CLICK`), and context features as text.

    An event that is neither a view nor a label is dropped.
    """
    rows = RowChecker(batch, table)
    user, item = rows.ids("user_id"), rows.ids("item_id")
    micros = rows.times("timestamp")
    event = rows.text("event", required=True)
    kind = np.full(len(batch), OTHER, np.int64)
    for code, names in ((VIEW, table.view), (CLICK, table.labels["clicked"])):
        among = pc.is_in(event, pa.array([str(name) for name in names]))
        kind[pc.fill_null(among, False).to_numpy(zero_copy_only=False)] = code
    for name in pc.unique(event.filter(pa.array(rows.ok & (kind == OTHER)))).to_pylist():
        is_name = pc.fill_null(pc.equal(event, name), False).to_numpy(zero_copy_only=False)
        rows.drop(is_name, f"event {name!r} is neither in events.view nor in events.labels")
    rows.known(item, known_items, "item_id", policies)
    return rows.result(
        {
            "user_id": user,
            "item_id": item,
            "micros": micros,
            "kind": kind,
            "event": pc.fill_null(event, ""),
            "request_id": pc.fill_null(rows.ids("request_id", required=False), ""),
            "event_id": pc.fill_null(rows.ids("event_id", required=False), ""),
            **rows.features("events"),
        }
    )


class Joined(NamedTuple):
    """The outcome of a join of n events.

    Attributes:
        views: Rows of the events that are impressions, in time order, int64 [v].
        clicked_at: When each of these was clicked, microseconds; `NEVER` where it was not, int64 [v].
        dropped: How many events are no impression, by reason.
    """

    views: np.ndarray
    clicked_at: np.ndarray
    dropped: Counter[str]


def join_events(
    user: np.ndarray,
    item: np.ndarray,
    micros: np.ndarray,
    kind: np.ndarray,
    request: np.ndarray,
    event_id: np.ndarray,
    what: np.ndarray,
    window_seconds: int,
) -> Joined:
    """Views, and the clicks that belong to them.

    A click belongs to the latest view of the same user and item that is not later, and at most `window_seconds`
    earlier; to one of the same request where there is any.  A user's events of one event id are deduplicated, the
    earliest is kept; without an id, those that agree in everything.  The order of the events does not matter.

    Args:
        user, item, request, event_id: Codes, int64 [n]; a request or event id of -1 is none.
        micros: Microseconds, int64 [n].
        kind: `VIEW` or `CLICK`, int64 [n].
        what: Codes of the event's name and its context, int64 [n].
        window_seconds: The oldest that the view of a click may be.
    """
    dropped: Counter[str] = Counter()
    kept = _first_of_each((what, request, kind, item, micros, user), event_id)
    if len(kept) < len(user):
        dropped["the event repeats another one"] = len(user) - len(kept)
    order = kept[np.lexsort((kind[kept], micros[kept], item[kept], user[kept]))]
    clicks = order[kind[order] == CLICK]
    view_of = np.full(len(clicks), -1, np.int64)
    with_request = request[clicks] >= 0
    if with_request.any():
        view_of[with_request] = _latest_views(
            (request, item, user), micros, kind, order[request[order] >= 0], window_seconds
        )
    unmatched = view_of < 0
    if unmatched.any():
        view_of[unmatched] = _latest_views((item, user), micros, kind, order, window_seconds)[unmatched]
    found = view_of >= 0
    if found.any():
        dropped["a click, joined to its view"] = int(found.sum())
    if (alone := int((~found).sum())) > 0:
        dropped[f"a click without a view in the {window_seconds} s before it"] = alone
    clicked_at = np.full(len(user), NEVER, np.int64)
    np.minimum.at(clicked_at, view_of[found], micros[clicks[found]])
    views = kept[kind[kept] == VIEW]
    views = views[np.lexsort((item[views], micros[views], user[views]))]
    return Joined(views, clicked_at[views], dropped)


def _first_of_each(keys: tuple[np.ndarray, ...], event_id: np.ndarray) -> np.ndarray:
    """Rows without those that repeat another one, int64.

    Args:
        keys: All that two events may have in common, in the order of `np.lexsort`: the user last.
        event_id: Codes; -1 is none.
    """
    order = np.lexsort((*keys[:-1], event_id, keys[-1]))
    same_user = keys[-1][order][1:] == keys[-1][order][:-1]
    same_id = (event_id[order][1:] == event_id[order][:-1]) & (event_id[order][1:] >= 0)
    equal = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0) & (event_id[order][1:] < 0)
    equal &= event_id[order][:-1] < 0
    new = np.ones(len(order), bool)
    new[1:] = ~((same_user & same_id) | equal)
    return np.sort(order[new])


def _latest_views(
    keys: tuple[np.ndarray, ...], micros: np.ndarray, kind: np.ndarray, rows: np.ndarray, window_seconds: int
) -> np.ndarray:
    """For each click of `rows`, in their order, its view's row, or -1.

    Args:
        keys: What click and view have in common, in the order of `np.lexsort`: the last is the primary one.
        micros, kind: Of all events.
        rows: Sorted by user, item and time.
        window_seconds: The most that lies between the two.
    """
    position = np.argsort(np.lexsort((kind[rows], micros[rows], *(key[rows] for key in keys))))
    order = np.empty(len(rows), np.int64)
    order[position] = rows
    index = np.arange(len(order))
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    group = np.maximum.accumulate(np.where(new, index, 0))
    latest = np.maximum.accumulate(np.where(kind[order] == VIEW, index, -1))
    ok = latest >= group
    ok &= micros[order] - micros[order[np.maximum(latest, 0)]] <= window_seconds * MICROS
    view = np.where(ok, order[np.maximum(latest, 0)], -1)[position]
    found: np.ndarray = view[kind[rows] == CLICK]
    return found


def impressions_of_users(columns: Columns, window_seconds: int) -> tuple[Columns, Counter[str]]:
    """The impressions of whole users; and how many events are no impression, by reason.

    Args:
        columns: Of `check_events`, all events of their users.
        window_seconds: The oldest that the view of a click may be.

    Returns:
        Columns as of `check_impressions`, and `clicked_at` in seconds, 0 where it was not clicked.
    """
    micros = columns["micros"].to_numpy(zero_copy_only=False)
    own = ("micros", "kind", "event", "request_id", "event_id")
    context = {name: values for name, values in columns.items() if name not in own}
    joined = join_events(
        ranks(columns["user_id"]),
        ranks(columns["item_id"]),
        micros,
        columns["kind"].to_numpy(zero_copy_only=False),
        _codes(columns["request_id"]),
        _codes(columns["event_id"]),
        _codes_of_all([columns["event"], *(context[name] for name in sorted(set(context) - {"user_id", "item_id"}))]),
        window_seconds,
    )
    found = take(context, joined.views)
    seconds, clicked = micros[joined.views] // MICROS, joined.clicked_at != NEVER
    found["timestamp"] = pa.array(seconds)
    found["sequence"] = pa.array(micros[joined.views] % MICROS)
    found["clicked"] = pa.array(clicked.astype(np.int64))
    found["clicked_at"] = pa.array(np.where(clicked, joined.clicked_at // MICROS, 0))
    return found, joined.dropped


def _codes(values: pa.Array) -> np.ndarray:
    """Codes of texts; -1 for an empty one."""
    codes = ranks(values)
    return np.where(pc.equal(pc.binary_length(values), 0).to_numpy(zero_copy_only=False), -1, codes)


def _codes_of_all(columns: list[pa.Array]) -> np.ndarray:
    """One code for each combination of values."""
    codes = np.zeros(len(columns[0]), np.int64)
    for values in columns:
        own = ranks(values)
        _, codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)
    return codes
