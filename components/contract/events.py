"""Joins a log of events into impressions: each view, and whether a click or another labelled event followed it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.columns import Columns, ranks, take
from components.contract.checks import CheckedRows, RowChecker
from components.contract.schema import EventTable, Policies
from components.contract.tables import TableBatch
from components.contract.values import MICROS

VIEW, OTHER = 0, -1  # kinds of events; of others bit n says that label n is set
NEVER = np.iinfo(np.int64).max


def check_events(
    batch: TableBatch, table: EventTable, policies: Policies, known_items: frozenset[str] | set[str]
) -> CheckedRows:
    """Rows of `events`: user, item, microseconds, what happened (`VIEW`, or a bit for each label of
    `events.labels`), and context features as text.

    An event that is neither a view nor a label is dropped, whatever else it lacks.
    """
    rows = RowChecker(batch, table)
    event = rows.text("event", required=True)
    kind = np.full(len(batch), OTHER, np.int64)

    def among(names: tuple[str, ...]) -> np.ndarray:
        found = pc.is_in(event, pa.array([str(name) for name in names]))
        return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False))

    kind[among(table.view)] = VIEW
    for place, label in enumerate(table.labels.values()):
        sets = among(label.events)
        kind[sets] = np.maximum(kind[sets], 0) | 1 << place
    for name in pc.unique(event.filter(pa.array(rows.ok & (kind == OTHER)))).to_pylist():
        is_name = pc.fill_null(pc.equal(event, name), False).to_numpy(zero_copy_only=False)
        rows.drop(is_name, f"event {name!r} is neither in events.view nor in events.labels")
    user, item = rows.ids("user_id"), rows.ids("item_id")
    micros = rows.times("timestamp")
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
        labelled_at: When the first event of each label followed, microseconds; `NEVER` where none did,
            int64 [v, labels].
        dropped: How many events are no impression, by reason.
    """

    views: np.ndarray
    labelled_at: np.ndarray
    dropped: Counter[str]


def join_events(
    user: np.ndarray,
    item: np.ndarray,
    micros: np.ndarray,
    kind: np.ndarray,
    request: np.ndarray,
    event_id: np.ndarray,
    what: np.ndarray,
    windows: Sequence[int],
) -> Joined:
    """Views, and the labelled events that belong to them.

    A labelled event, a click say, belongs to the latest view of the same user and item that is not later, and at most
    its label's window earlier; to one of the same request where there is any.  A user's events of one event id are
    deduplicated, the earliest is kept; without an id, those that agree in everything.  The order of the events does not
    matter.

    Args:
        user, item, request, event_id: Codes, int64 [n]; a request or event id of -1 is none.
        micros: Microseconds, int64 [n].
        kind: `VIEW`, or the bits of the labels that the event sets, int64 [n].
        what: Codes of the event's name and its context, int64 [n].
        windows: Of each label, the oldest that the view of its events may be, in seconds.
    """
    dropped: Counter[str] = Counter()
    kept = _first_of_each((what, request, kind, item, micros, user), event_id)
    if len(kept) < len(user):
        dropped["the event repeats another one"] = len(user) - len(kept)
    order = kept[np.lexsort((kind[kept], micros[kept], item[kept], user[kept]))]
    labelled = order[kind[order] > VIEW]
    view_of = np.full(len(labelled), -1, np.int64)
    with_request = request[labelled] >= 0
    if with_request.any():
        view_of[with_request] = _latest_views((request, item, user), micros, kind, order[request[order] >= 0])
    age = np.where(view_of >= 0, micros[labelled] - micros[np.maximum(view_of, 0)], NEVER)
    anywhere = _latest_views((item, user), micros, kind, order) if len(labelled) else view_of
    age_anywhere = np.where(anywhere >= 0, micros[labelled] - micros[np.maximum(anywhere, 0)], NEVER)
    labelled_at = np.full((len(user), len(windows)), NEVER, np.int64)
    joined = np.zeros(len(labelled), bool)
    for place, seconds in enumerate(windows):
        sets, window = kind[labelled] >> place & 1 == 1, seconds * MICROS
        view = np.where(age <= window, view_of, np.where(age_anywhere <= window, anywhere, -1))
        found = sets & (view >= 0)
        np.minimum.at(labelled_at[:, place], view[found], micros[labelled[found]])
        joined |= found
    if joined.any():
        dropped["a labelled event, joined to its view"] = int(joined.sum())
    if (alone := int((~joined).sum())) > 0:
        dropped["a labelled event without a view in the window before it"] = alone
    views = kept[kind[kept] == VIEW]
    views = views[np.lexsort((item[views], micros[views], user[views]))]
    return Joined(views, labelled_at[views], dropped)


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


def _latest_views(keys: tuple[np.ndarray, ...], micros: np.ndarray, kind: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """For each labelled event of `rows`, in their order, the row of the latest view before it, or -1.

    Args:
        keys: What event and view have in common, in the order of `np.lexsort`: the last is the primary one.
        micros, kind: Of all events.
        rows: Sorted by user, item and time.
    """
    position = np.argsort(np.lexsort((kind[rows], micros[rows], *(key[rows] for key in keys))))
    order = np.empty(len(rows), np.int64)
    order[position] = rows
    index = np.arange(len(order))
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    group = np.maximum.accumulate(np.where(new, index, 0))
    latest = np.maximum.accumulate(np.where(kind[order] == VIEW, index, -1))
    view = np.where(latest >= group, order[np.maximum(latest, 0)], -1)[position]
    found: np.ndarray = view[kind[rows] > VIEW]
    return found


def impressions_of_users(columns: Columns, table: EventTable) -> tuple[Columns, Counter[str]]:
    """The impressions of whole users; and how many events are no impression, by reason.

    Args:
        columns: Of `check_events`, all events of their users.
        table: Labels and their windows.

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
        [label.window_seconds or table.window_seconds for label in table.labels.values()],
    )
    found = take(context, joined.views)
    seconds = micros[joined.views] // MICROS
    found["timestamp"] = pa.array(seconds)
    found["sequence"] = pa.array(micros[joined.views] % MICROS)
    for label, at in zip(table.labels, joined.labelled_at.T, strict=True):
        found[label] = pa.array((at != NEVER).astype(np.int64))
        if label == "clicked":
            found["clicked_at"] = pa.array(np.where(at != NEVER, at // MICROS, 0))
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
