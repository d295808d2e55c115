"""Whole buckets of users: impressions and their histories, segments and profiles → ranking examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from components.columns import Columns, concatenate, matrix_to_lists, ranks, take
from components.examples import SPLITS, to_examples
from components.history_gen.point_in_time import (
    SEGMENTS,
    Histories,
    flat_ranges,
    point_in_time_histories,
    segments,
    tail_limit,
)
from components.history_gen.span_statistics import CatalogueStatistics, UserStatistics
from components.history_gen.statistics_table import CLICKED_AT, USERS, StatisticsSpec, user_rows
from components.new_items import launched_late

SPLIT, STATISTICS = "__split__", "statistics"
LAUNCHED = "launched"  # whether an item was there in training, `known`, or is `new`
PIECE_ROWS = 4_096
BUSY_ROWS = 50_000  # a user with more rows than this is shared out among workers
BUSY = "busy"


@dataclass(frozen=True)
class Piece:
    """Some impressions and the clicks that their histories are made of.

    Attributes:
        columns: The impressions, with their split's code as `SPLIT`; no history yet.
        item_ids: Of the clicks, binary [c].
        times: Of the clicks, int64 [c].
        start, end: Each row's history as a range of the clicks, int64 [n].
    """

    columns: Columns
    item_ids: pa.Array
    times: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def encode(self) -> Iterator[Any]:
        """Serialised ranking examples, tagged with the name of their split."""
        places, offsets = flat_ranges(self.start, self.end)
        begins = pa.array(offsets.astype(np.int32))
        moments = np.repeat(self.columns["timestamp"].to_numpy(zero_copy_only=False), np.diff(offsets))
        columns = {
            **self.columns,
            "history_item_ids": pa.ListArray.from_arrays(begins, self.item_ids.take(pa.array(places))),
            "history_ages": pa.ListArray.from_arrays(begins, pa.array(moments - self.times[places])),
        }
        split = columns.pop(SPLIT).to_numpy()
        for code, name in enumerate(SPLITS):
            rows = np.flatnonzero(split == code)
            if len(rows):
                yield beam.pvalue.TaggedOutput(name, to_examples(take(columns, rows)))


class EncodePieces(beam.DoFn):
    """`Piece`s → serialised ranking examples, by split."""

    def process(self, piece: Piece) -> Iterator[Any]:
        yield from piece.encode()


class Join(beam.DoFn):
    """(bucket, its impressions and users) and the training clicks of every item → ranking examples, by split.

    Finding where each history lies is quick; laying it out and encoding it is not.  So the rows of a busy user leave
    as `Piece`s under the tag `BUSY`, for any worker to go on with.

    Args:
        history_length: The most clicks a history holds.
        cold_max_clicks: An item with at most so many training clicks is cold.
        profile: Columns of `users` that each example gets.
        new_items: One item in so many is launched only with the test, and stands in no history; 0 for none.
        lag: Seconds that a click takes until a history can hold it.
        statistics: What is counted; None for nothing.
    """

    def __init__(
        self,
        history_length: int,
        cold_max_clicks: int,
        profile: tuple[str, ...],
        new_items: int,
        lag: int = 0,
        statistics: StatisticsSpec | None = None,
    ) -> None:
        self._length, self._cold, self._profile = history_length, cold_max_clicks, profile
        self._new_items, self._lag, self._statistics = new_items, lag, statistics

    def process(
        self,
        group: tuple[int, dict[str, Iterable[Columns]]],
        clicks: dict[bytes, int],
        catalogue: CatalogueStatistics | None = None,
    ) -> Iterator[Any]:
        bucket, sides = group
        if not (batches := list(sides["impressions"])):
            return
        columns = concatenate(batches)
        encoded_user = columns["user_id"].dictionary_encode()
        user = encoded_user.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        timestamp, sequence, clicked = (
            columns[name].to_numpy(zero_copy_only=False) for name in ("timestamp", "sequence", "clicked")
        )
        item = ranks(columns["item_id"])
        if self._statistics is not None and catalogue is not None:
            codes = catalogue.attributes.rows_of(columns["item_id"])
            counts = UserStatistics.of_activity(catalogue, self._statistics.activity(columns), user, codes)
            columns[STATISTICS] = matrix_to_lists(counts.of_rows(user, codes, timestamp))
            for examples in user_rows(counts, encoded_user.dictionary):
                yield beam.pvalue.TaggedOutput(USERS, examples)
        if self._new_items:
            late = launched_late(columns["item_id"], self._new_items)
            clicked = clicked * ~late
            columns[LAUNCHED] = pa.array([b"known", b"new"], pa.binary()).take(pa.array(late.astype(np.int8)))
        clicked_at = columns.pop(CLICKED_AT).to_numpy(zero_copy_only=False) if CLICKED_AT in columns else None
        histories = point_in_time_histories(
            user, timestamp, sequence, item, clicked, self._length, clicked_at, self._lag
        )
        times_of_clicks = timestamp if clicked_at is None else clicked_at
        columns["segment"] = self._segments(columns["item_id"], clicks)
        columns |= self._profiles(encoded_user, list(sides.get("users", ())))

        # By user, then by time, in whatever order the rows arrived: equal runs write equal files.
        order = histories.order[np.argsort(ranks(encoded_user.dictionary)[user[histories.order]], kind="stable")]
        is_busy = (np.bincount(user) > BUSY_ROWS)[user[order]]
        in_order = order[is_busy]  # neighbours have nearly the same clicks
        for begin in range(0, len(in_order), PIECE_ROWS):
            piece = _piece(columns, histories, times_of_clicks, in_order[begin : begin + PIECE_ROWS])
            yield beam.pvalue.TaggedOutput(BUSY, piece)
        # Mixed, since a Trainer that shuffles only so many rows should not meet one user's all at once.
        others = np.random.default_rng(bucket).permutation(order[~is_busy])
        item_ids, times = columns["item_id"].take(pa.array(histories.clicks)), times_of_clicks[histories.clicks]
        for begin in range(0, len(others), PIECE_ROWS):
            rows = others[begin : begin + PIECE_ROWS]
            ranges = histories.start[rows], histories.end[rows]
            yield from Piece(take(columns, rows), item_ids, times, *ranges).encode()

    def _segments(self, item_id: pa.Array, clicks: dict[bytes, int]) -> pa.Array:
        limit = tail_limit(np.fromiter(clicks.values(), np.int64, len(clicks)))
        items = item_id.dictionary_encode()
        popularity = np.array([clicks.get(item, 0) for item in items.dictionary.to_pylist()], np.int64)
        code = segments(popularity, self._cold, limit)[items.indices.to_numpy(zero_copy_only=False)]
        return pa.array([name.encode() for name in SEGMENTS], pa.binary()).take(pa.array(code))

    def _profiles(self, user: pa.DictionaryArray, batches: list[Columns]) -> Columns:
        if not self._profile:
            return {}
        known = concatenate(batches) if batches else {}
        place = {value: row for row, value in enumerate(known["user_id"].to_pylist())} if known else {}
        rows = pa.array([place.get(value) for value in user.dictionary.to_pylist()], pa.int64()).take(user.indices)
        return {
            name: known[name].take(rows).fill_null(b"") if known else pa.array([b""] * len(user), pa.binary())
            for name in self._profile
        }


def _piece(columns: Columns, histories: Histories, times: np.ndarray, rows: np.ndarray) -> Piece:
    """With no more clicks than these rows need."""
    start, end = histories.start[rows], histories.end[rows]
    first = int(start.min())
    clicks = histories.clicks[first : end.max()]
    item_ids = columns["item_id"].take(pa.array(clicks))
    return Piece(take(columns, rows), item_ids, times[clicks], start - first, end - first)
