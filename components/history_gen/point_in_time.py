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
    user: np.ndarray, timestamp: np.ndarray, sequence: np.ndarray, item: np.ndarray, clicked: np.ndarray, length: int
) -> Histories:
    """For each row, the same user's clicked rows that are strictly earlier, at most `length`, most recent last.

    Earlier is by (timestamp, sequence); rows that tie in both see nothing of one another, and stand in the order of
    their items in the histories of later rows.  The order in which rows arrive does not matter.

    Args:
        user: Codes of the users, int64 [n].
        timestamp: Seconds, int64 [n].
        sequence: Tie-break within a second, int64 [n].
        item: Ranks of the items among all, int64 [n].
        clicked: 0 or 1, int64 [n].
        length: The most clicks a history holds.
    """
    n = len(user)
    if n == 0:
        nothing = np.zeros(0, np.int64)
        return Histories(nothing, nothing, nothing, nothing)
    order = np.lexsort((item, sequence, timestamp, user))
    users, times, places, clicks = user[order], timestamp[order], sequence[order], clicked[order]
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    new_moment = new_user | np.concatenate([[True], (times[1:] != times[:-1]) | (places[1:] != places[:-1])])
    clicks_before = np.cumsum(clicks) - clicks  # clicked rows ahead of each sorted row
    index = np.arange(n)
    first_of_moment = np.maximum.accumulate(np.where(new_moment, index, 0))
    first_of_user = np.maximum.accumulate(np.where(new_user, index, 0))
    start, end = np.empty(n, np.int64), np.empty(n, np.int64)
    end[order] = clicks_before[first_of_moment]
    start[order] = np.maximum(clicks_before[first_of_user], clicks_before[first_of_moment] - length)
    return Histories(order[clicks == 1], start, end, order)


def tail_limit(training_clicks: np.ndarray) -> int:
    """The most training clicks an item of the tail has: the tail is what lies above cold in the lower half of items.

    Args:
        training_clicks: Clicks of each item that was shown in the training part, int64 [items].
    """
    return int(np.sort(training_clicks)[(len(training_clicks) - 1) // 2]) if len(training_clicks) else 0


def segments(training_clicks: np.ndarray, cold_max_clicks: int, limit: int) -> np.ndarray:
    """0, 1 or 2 (an index into `SEGMENTS`) for each item's training clicks, int64 [n]."""
    return (training_clicks > cold_max_clicks).astype(np.int64) + (training_clicks > max(limit, cold_max_clicks))
