"""Counts of impressions and clicks as of the end of the last completed span, a day say.

An impression of Tuesday sees what had happened until Monday's midnight.  So serving can read the very same counts from
a table that is exported once a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.history_gen.point_in_time import flat_ranges
from components.item_attributes import attribute_values

NEVER = int(np.iinfo(np.int64).min)  # the time of the last click, where there was none
FIELDS = ("impressions", "clicks", "last_click")
NO_CLICK = -1  # seconds since the last click, where there was none
OVERALL, ITEM, USER = "overall", "item", "user"


def entity_names(attributes: Iterable[str]) -> tuple[str, ...]:
    """What is counted, in the order of the feature `statistics`: overall, item, user, and for each attribute its
    values and the pairs of user and value."""
    return (OVERALL, ITEM, USER, *(name for one in attributes for name in (one, f"{USER} x {one}")))


def attributes_of(entities: Sequence[str]) -> Sequence[str]:
    """The attributes that `entity_names` was called with."""
    return entities[3::2]


@dataclass(frozen=True)
class Activity:
    """m entries, each of some impressions and clicks that became known in one span; all int64 [m].

    Attributes:
        row: What they belong to: a row of impressions, or an item.
        span: When they became known.
        impressions, clicks: How many.
        last_click: Seconds since 1970 of the latest of these clicks, or `NEVER`.
    """

    row: np.ndarray
    span: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray
    last_click: np.ndarray

    @staticmethod
    def of_impressions(
        timestamp: np.ndarray, clicked: np.ndarray, clicked_at: np.ndarray, seconds: int, lag: int
    ) -> Activity:
        """An entry for each impression, and a further one for each click.

        Args:
            timestamp: Seconds, int64 [n].
            clicked: 0 or 1, int64 [n].
            clicked_at: Seconds at which each row was clicked, int64 [n].
            seconds: Of a span.
            lag: Seconds until an impression or a click is known.
        """
        rows, clicks = np.arange(len(timestamp)), np.flatnonzero(clicked == 1)
        kind = np.repeat([1, 0], [len(rows), len(clicks)])
        known = np.concatenate([timestamp, clicked_at[clicks]]) + lag
        last_click = np.where(kind == 1, NEVER, known - lag)
        return Activity(np.concatenate([rows, clicks]), known // seconds, kind, 1 - kind, last_click)

    def take(self, entries: np.ndarray, row: np.ndarray | None = None) -> Activity:
        """Some of the entries, and what they belong to where it is another."""
        parts = (self.span, self.impressions, self.clicks, self.last_click)
        return Activity(self.row[entries] if row is None else row, *(part[entries] for part in parts))

    def spread(self, offsets: np.ndarray, codes: np.ndarray) -> Activity:
        """Each entry once for every code of its row: those of row r are `codes[offsets[r]:offsets[r + 1]]`."""
        places, begins = flat_ranges(offsets[self.row], offsets[self.row + 1])
        return self.take(np.repeat(np.arange(len(self.row)), np.diff(begins)), codes[places])


class SpanCounts:
    """Counts by key and time.

    Args:
        activity: Its `row` is the key, 0 or more.
    """

    def __init__(self, activity: Activity) -> None:
        span = activity.span
        self._first = int(span.min(initial=np.iinfo(np.int64).max))
        self._stride = int(span.max(initial=self._first)) - self._first + 2
        code = activity.row * self._stride + span - self._first
        order = np.lexsort((activity.last_click, code))
        activity, self._code = activity.take(order), code[order]
        begin = np.searchsorted(self._code, activity.row * self._stride)
        sums = np.cumsum([activity.impressions, activity.clicks], axis=1)
        before = np.concatenate([np.zeros((2, 1), np.int64), sums], axis=1)[:, begin]
        # The later a click, the later it is known: the latest entry with a click has the latest click.
        last = np.maximum.accumulate(np.where(activity.clicks > 0, np.arange(len(order)), -1))
        last_click = np.where(last >= begin, activity.last_click[last], NEVER) if len(order) else np.zeros(0, np.int64)
        self._totals = np.stack([*(sums - before), last_click], axis=1)

    def as_of(self, key: np.ndarray, span: np.ndarray) -> np.ndarray:
        """The counts before `span` began, int64 [n, 3]; zeros and `NEVER` for a key without any."""
        offset = np.clip(span - self._first, 0, self._stride - 1)
        place = np.searchsorted(self._code, key * self._stride + offset) - 1
        found = place >= 0
        found[found] = self._code[place[found]] // self._stride == key[found]
        counts = np.tile(np.array([0, 0, NEVER]), (len(key), 1))
        counts[found] = self._totals[place[found]]
        return counts

    def keys(self) -> np.ndarray:
        """All keys, int64, ascending."""
        return np.unique(self._code // self._stride)


def sum_counts(counts: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Sums of ranges of counts, with the latest of the last clicks.

    Args:
        counts: int64 [total, 3].
        begins: Where each range begins, and the end of the last one, int64 [n + 1].

    Returns:
        int64 [n, 3]; zeros and `NEVER` for an empty range.
    """
    sums = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(counts[:, :2], axis=0)])
    last_click = np.full(len(begins) - 1, NEVER)
    np.maximum.at(last_click, np.repeat(np.arange(len(last_click)), np.diff(begins)), counts[:, 2])
    return np.concatenate([sums[begins[1:]] - sums[begins[:-1]], last_click[:, None]], axis=1)


@dataclass(frozen=True)
class ItemAttributes:
    """The values of each item.

    Attributes:
        item_ids: binary [items].
        values: The distinct values of each attribute, by name.
        offsets, codes: Those of item i are `values[name][c]` for c in `codes[name][offsets[name][i]:…[i + 1]]`; the
            last item stands for all that are not known, and has none.
        dates: Seconds since 1970 by name, int64 [items + 1]; 0 for an unknown date.
    """

    item_ids: pa.Array
    values: dict[str, list[str]]
    offsets: dict[str, np.ndarray]
    codes: dict[str, np.ndarray]
    dates: dict[str, np.ndarray]

    @staticmethod
    def of_items(columns: dict[str, pa.Array], kinds: dict[str, str], date_names: Sequence[str] = ()) -> ItemAttributes:
        """From the columns of the catalogue.

        Args:
            columns: `item_id`, attributes as bytes, dates as int64.
            kinds: `categorical`, `number` or `list`, by attribute.
            date_names: Of the dates.
        """
        order = pc.sort_indices(columns["item_id"])  # whatever the order of arrival
        values, offsets, codes = {}, {}, {}
        for name, kind in kinds.items():
            raw = columns[name].take(order).to_pylist() if name in columns else [b""] * len(order)
            own = attribute_values(kind, np.array([*raw, None], object)[:-1])
            values[name] = sorted({value for one in own for value in one})
            code = {value: place for place, value in enumerate(values[name])}
            offsets[name] = np.concatenate([[0], np.cumsum([*map(len, own), 0])]).astype(np.int64)
            codes[name] = np.array([code[value] for one in own for value in one], np.int64)
        unknown = np.zeros(len(order), np.int64)
        dates = {name: columns[name].take(order).to_numpy() if name in columns else unknown for name in date_names}
        dates = {name: np.append(seconds, 0) for name, seconds in dates.items()}
        return ItemAttributes(columns["item_id"].take(order), values, offsets, codes, dates)

    def rows_of(self, item_ids: pa.Array) -> np.ndarray:
        """Indices of items, int64 [n]."""
        found = pc.index_in(item_ids, value_set=self.item_ids).fill_null(len(self.item_ids))
        return found.to_numpy(zero_copy_only=False).astype(np.int64)

    def lists_of(self, name: str, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Values of an attribute, end to end; where each of some items begins in them, int64 [n + 1])."""
        places, begins = flat_ranges(self.offsets[name][items], self.offsets[name][items + 1])
        return self.codes[name][places], begins


@dataclass(frozen=True)
class CatalogueStatistics:
    """Counts of everything but users.

    Attributes:
        attributes: Of the items.
        overall, items: Counts of all, with the key 0, and of each item.
        values: Counts of each value, by attribute.
        seconds: Of a span.
        end: The first span that is not complete.
    """

    attributes: ItemAttributes
    overall: SpanCounts
    items: SpanCounts
    values: dict[str, SpanCounts]
    seconds: int
    end: int

    @staticmethod
    def of_activity(table: pa.Table, attributes: ItemAttributes, seconds: int, now: float) -> CatalogueStatistics:
        """From the counts by item and span.

        Args:
            table: Columns `item_id`, `span`, `impressions`, `clicks`, `last_click`.
            attributes: Of the catalogue.
            seconds: Of a span.
            now: Seconds since 1970: the span that it lies in is not complete.
        """
        item = attributes.rows_of(table["item_id"].combine_chunks())
        activity = Activity(item, *(table[name].to_numpy() for name in ("span", *FIELDS)))
        by_value = {
            name: SpanCounts(activity.spread(attributes.offsets[name], attributes.codes[name]))
            for name in attributes.values
        }
        overall = SpanCounts(activity.take(np.arange(len(item)), np.zeros_like(item)))
        end = min(int(now // seconds), int(activity.span.max(initial=-1)) + 1)
        # An item that the catalogue lacks has no row when it is served, and so no counts of its own.
        of_known = activity.take(np.flatnonzero(item < len(attributes.item_ids)))
        return CatalogueStatistics(attributes, overall, SpanCounts(of_known), by_value, seconds, end)


@dataclass(frozen=True)
class UserStatistics:
    """Counts of some users.

    Attributes:
        catalogue: Counts of everything else.
        users: Counts by the users' codes.
        pairs: Counts of (user, value) as `user * len(values) + value`, by attribute.
    """

    catalogue: CatalogueStatistics
    users: SpanCounts
    pairs: dict[str, SpanCounts]

    @staticmethod
    def of_activity(
        catalogue: CatalogueStatistics, activity: Activity, user: np.ndarray, item: np.ndarray
    ) -> UserStatistics:
        """From the activity of rows of impressions, whose users and items have these codes, int64 [n] each."""
        entries, attributes = np.arange(len(activity.row)), catalogue.attributes
        pairs = {}
        for name, values in attributes.values.items():
            codes, begins = attributes.lists_of(name, item)
            owner = np.repeat(user, np.diff(begins))
            pairs[name] = SpanCounts(activity.spread(begins, owner * len(values) + codes))
        return UserStatistics(catalogue, SpanCounts(activity.take(entries, user[activity.row])), pairs)

    def of_rows(self, user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """The feature `statistics`: for each of `entity_names` impressions, clicks, and seconds from the last click to
        the end of the last completed span, `NO_CLICK` for none; then for each date the seconds from it to then, 0 for
        a later one and `NO_CLICK` for an unknown one.

        Args:
            user, item: Codes, int64 [n].
            timestamp: Seconds, int64 [n].

        Returns:
            int64 [n, 3 · entities + dates].
        """
        catalogue, attributes = self.catalogue, self.catalogue.attributes
        span = timestamp // catalogue.seconds
        counts = [catalogue.overall.as_of(np.zeros_like(item), span), catalogue.items.as_of(item, span)]
        counts.append(self.users.as_of(user, span))
        for name, values in attributes.values.items():
            codes, begins = attributes.lists_of(name, item)
            row = np.repeat(np.arange(len(item)), np.diff(begins))
            counts.append(sum_counts(catalogue.values[name].as_of(codes, span[row]), begins))
            pair = user[row] * len(values) + codes
            counts.append(sum_counts(self.pairs[name].as_of(pair, span[row]), begins))
        now = (span * catalogue.seconds)[:, None]
        ages = [
            np.where(one[item] == 0, NO_CLICK, np.maximum(now[:, 0] - one[item], 0))[:, None]
            for one in attributes.dates.values()
        ]
        return np.concatenate([*(seconds_since(one, now) for one in counts), *ages], axis=1)


def seconds_since(counts: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Counts [n, 3] with the time of the last click as seconds before `now`, or `NO_CLICK`."""
    age = np.where(counts[:, 2:] == NEVER, NO_CLICK, now - counts[:, 2:])
    return np.concatenate([counts[:, :2], age], axis=1)
