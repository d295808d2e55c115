"""Where train ends and test begins."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import numpy as np

from components.columns import Columns, concatenate, ranks

Histogram = tuple[np.ndarray, np.ndarray]  # distinct times, ascending, and the rows at each


class TimeHistogram(beam.CombineFn):
    """Batches of timestamps → (distinct times, rows at each): exact, and small where rows share seconds.

    An accumulator is a list of histograms, the first of them larger than all others together: joined only when these
    have grown as large, so that ten times the rows cost ten times the work.
    """

    def create_accumulator(self) -> list[Histogram]:
        return []

    def add_input(self, accumulator: list[Histogram], timestamps: np.ndarray) -> list[Histogram]:
        times, rows = np.unique(timestamps, return_counts=True)
        return _packed([*accumulator, (times, rows)])

    def merge_accumulators(self, accumulators: Iterable[list[Histogram]]) -> list[Histogram]:
        return _packed([part for accumulator in accumulators for part in accumulator])

    def extract_output(self, accumulator: list[Histogram]) -> Histogram:
        return _joined(accumulator)


def _packed(parts: list[Histogram]) -> list[Histogram]:
    largest = max(parts, key=lambda part: len(part[0]), default=None)
    if largest is None or sum(len(part[0]) for part in parts) < 2 * len(largest[0]):
        return parts
    return [_joined(parts)]


def _joined(parts: list[Histogram]) -> Histogram:
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    distinct, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    rows = np.concatenate([part[1] for part in parts])
    return distinct, np.bincount(inverse, rows, len(distinct)).astype(np.int64)


def time_boundaries(histogram: Histogram, fractions: tuple[float, ...]) -> tuple[int, int]:
    """The times at which valid and test begin; all rows of one second fall on the same side."""
    times, rows = histogram
    if not len(times):
        return 0, 0
    before = np.concatenate([[0], np.cumsum(rows)[:-1]])  # rows strictly earlier than each time
    total = int(rows.sum())
    starts = np.array([fractions[0], fractions[0] + fractions[1]]) * total - 1e-9
    first = np.minimum(np.searchsorted(before, starts), len(times) - 1)
    return int(times[first[0]]), int(times[first[1]])


def split_by_time(timestamps: np.ndarray, boundaries: tuple[int, int]) -> np.ndarray:
    """0, 1 or 2 (train, valid, test) for each timestamp, int64 [n]."""
    return np.searchsorted(np.array(boundaries), timestamps, side="right")


def split_by_user(columns: Columns, fractions: tuple[float, ...]) -> np.ndarray:
    """0, 1 or 2 for each row, int64 [n]: the first floor(n·f) rows of each user's own n rows are train, and so on.

    Rows of a user are ordered by time, then `sequence`, then item, then whatever else they hold, so that the result
    does not depend on the order of arrival.
    """
    user = columns["user_id"].dictionary_encode().indices.to_numpy(zero_copy_only=False)
    timestamp, sequence = (columns[name].to_numpy(zero_copy_only=False) for name in ("timestamp", "sequence"))
    first = {"user_id", "timestamp", "sequence", "item_id"}
    further = [ranks(columns[name]) for name in sorted(set(columns) - first)]
    order = np.lexsort((*further, ranks(columns["item_id"]), sequence, timestamp, user))
    sizes = np.bincount(user)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(user), np.int64)
    place[order] = np.arange(len(user)) - starts[user[order]]
    n = sizes[user]
    valid_from = np.floor(n * fractions[0] + 1e-9)
    test_from = np.floor(n * (fractions[0] + fractions[1]) + 1e-9)
    return (place >= valid_from).astype(np.int64) + (place >= test_from)


def split_users_of_bucket(
    group: tuple[int, Iterable[Columns]], fractions: tuple[float, ...]
) -> tuple[Columns, np.ndarray]:
    """All rows of a bucket of users, with their splits."""
    columns = concatenate(group[1])
    return columns, split_by_user(columns, fractions)
