"""Histories as they were at the moment of each impression, and how popular an item was in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEGMENTS = ("cold", "tail", "rest")


@dataclass(frozen=True)
class Histories:
    """Histories of n rows as ranges of one list of clicks: that of row r is `clicks[start[r]:end[r]]`.

    A history of fifty takes fifty times the room of its row, so it is laid out for some rows at a time, by `of`.

    Attributes:
        clicks: The clicked rows of all users, each user's together and in time's order, int64 [clicks].
        start: int64 [n].
        end: int64 [n].
        order: All rows, each user's together and in time's order, int64 [n].
    """

    clicks: np.ndarray
    start: np.ndarray
    end: np.ndarray
    order: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Clicked rows, most recent last, int64 [total]; offsets int64 [len(rows) + 1]) of some rows' histories."""
        places, offsets = flat_ranges(self.start[rows], self.end[rows])
        return self.clicks[places], offsets


def flat_ranges(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges [start, end) end to end, int64 [total], and where each begins in that, int64 [n + 1]."""
    sizes = end - start
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + np.repeat(start, sizes), offsets


def point_in_time_histories(
    user: np.ndarray,
    timestamp: np.ndarray,
    sequence: np.ndarray,
    item: np.ndarray,
    clicked: np.ndarray,
    length: int,
    clicked_at: np.ndarray | None = None,
    lag: int = 0,
) -> Histories:
    """For each row, the same user's clicks that are strictly earlier, at most `length`, most recent last.

    Earlier is by (timestamp, sequence); rows that tie in both see nothing of one another, and stand in the order of
    their items in the histories of later rows.  Where it is known when a row was clicked, the click counts from then
    on, and not from the impression on.  The order in which rows arrive does not matter.

    Args:
        user: Codes of the users, int64 [n].
        timestamp: Seconds, int64 [n].
        sequence: Tie-break within a second, int64 [n].
        item: Ranks of the items among all, int64 [n].
        clicked: 0 or 1, int64 [n].
        length: The most clicks a history holds.
        clicked_at: Seconds at which each row was clicked, int64 [n]; None for the moment of the impression.
        lag: Seconds that a click takes until a history can hold it.
    """
    n, latest = len(user), np.iinfo(np.int64).max
    clicks = np.flatnonzero(clicked == 1)
    known = (timestamp if clicked_at is None else clicked_at)[clicks]
    tie = sequence[clicks] if clicked_at is None else np.full(len(clicks), latest)
    order = np.lexsort((item[clicks], tie, known, user[clicks]))
    clicks, known, tie = clicks[order], known[order], tie[order]
    # Rows before the clicks of the same moment: what stands ahead of a row is strictly earlier.
    is_click = np.repeat([False, True], [n, len(clicks)])
    times, ties = np.concatenate([timestamp - lag, known]), np.concatenate([sequence, tie])
    merged = np.lexsort((is_click, ties, times, np.concatenate([user, user[clicks]])))
    is_click = is_click[merged]
    rows = merged[~is_click]
    end = np.empty(n, np.int64)
    end[rows] = np.cumsum(is_click)[~is_click]
    start = np.maximum(np.searchsorted(user[clicks], user), end - length)
    return Histories(clicks, start, end, rows)


def tail_limit(training_clicks: np.ndarray) -> int:
    """The most training clicks an item of the tail has: the tail is what lies above cold in the lower half of items.

    Args:
        training_clicks: Clicks of each item that was shown in the training part, int64 [items].
    """
    return int(np.sort(training_clicks)[(len(training_clicks) - 1) // 2]) if len(training_clicks) else 0


def segments(training_clicks: np.ndarray, cold_max_clicks: int, limit: int) -> np.ndarray:
    """0, 1 or 2 (an index into `SEGMENTS`) for each item's training clicks, int64 [n]."""
    return (training_clicks > cold_max_clicks).astype(np.int64) + (training_clicks > max(limit, cold_max_clicks))
