"""Histories as they were at the moment of each impression, and how popular an item was in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEGMENTS = ("cold", "tail", "rest")


@dataclass(frozen=True)
class Histories:
    """Ragged histories of n rows, flat: row r holds `clicks[offsets[r]:offsets[r + 1]]`.

    Attributes:
        clicks: Indices of the clicked rows, most recent last, int64 [total].
        offsets: int64 [n + 1].
    """

    clicks: np.ndarray
    offsets: np.ndarray


def point_in_time_histories(
    user: np.ndarray, timestamp: np.ndarray, sequence: np.ndarray, clicked: np.ndarray, length: int
) -> Histories:
    """For each row, the same user's clicked rows that are strictly earlier, at most `length`, most recent last.

    Earlier is by (timestamp, sequence); rows that tie in both see nothing of one another.  The order in which
    rows arrive does not matter, except between clicks that tie, which keep their order of arrival.

    Args:
        user: Codes of the users, int64 [n].
        timestamp: Seconds, int64 [n].
        sequence: Tie-break within a second, int64 [n].
        clicked: 0 or 1, int64 [n].
        length: The most clicks a history holds.
    """
    n = len(user)
    if n == 0:
        return Histories(np.zeros(0, np.int64), np.zeros(1, np.int64))
    order = np.lexsort((sequence, timestamp, user))
    users, times, places, clicks = user[order], timestamp[order], sequence[order], clicked[order]
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    new_moment = new_user | np.concatenate([[True], (times[1:] != times[:-1]) | (places[1:] != places[:-1])])
    clicks_before = np.cumsum(clicks) - clicks  # clicked rows ahead of each sorted row
    index = np.arange(n)
    first_of_moment = np.maximum.accumulate(np.where(new_moment, index, 0))
    first_of_user = np.maximum.accumulate(np.where(new_user, index, 0))
    end = clicks_before[first_of_moment]
    start = np.maximum(clicks_before[first_of_user], end - length)
    clicked_rows = order[clicks == 1]

    starts, ends = np.empty(n, np.int64), np.empty(n, np.int64)
    starts[order], ends[order] = start, end
    sizes = ends - starts
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + np.repeat(starts, sizes)
    return Histories(clicked_rows[flat] if len(flat) else np.zeros(0, np.int64), offsets)


def tail_limit(training_clicks: np.ndarray) -> int:
    """The most training clicks an item of the tail has: the tail is what lies above cold in the lower half of items.

    Args:
        training_clicks: Clicks of each item that was shown in the training part, int64 [items].
    """
    return int(np.sort(training_clicks)[(len(training_clicks) - 1) // 2]) if len(training_clicks) else 0


def segments(training_clicks: np.ndarray, cold_max_clicks: int, limit: int) -> np.ndarray:
    """0, 1 or 2 (an index into `SEGMENTS`) for each item's training clicks, int64 [n]."""
    return (training_clicks > cold_max_clicks).astype(np.int64) + (training_clicks > max(limit, cold_max_clicks))
