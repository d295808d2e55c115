"""Pairs from impressions: what a user had clicked, what the user clicked then, and what the user saw and left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.history_gen.point_in_time import flat_ranges, point_in_time_histories


@dataclass(frozen=True)
class ImpressionPairs:
    """n pairs of clicks; all fields hold rows of the impressions they were made from.

    Attributes:
        item: The click, int64 [n].
        query, query_offsets: Earlier clicks of the user, most recent last; those of pair i are
            `query[query_offsets[i]:query_offsets[i + 1]]`.
        hard, hard_offsets: Likewise, what the user saw near that moment and did not click.
    """

    item: np.ndarray
    query: np.ndarray
    query_offsets: np.ndarray
    hard: np.ndarray
    hard_offsets: np.ndarray


def impression_pairs(
    user: np.ndarray,
    timestamp: np.ndarray,
    sequence: np.ndarray,
    item: np.ndarray,
    clicked: np.ndarray,
    query_length: int,
    hard: int,
    max_per_user: int,
) -> ImpressionPairs:
    """A pair for each click that has a click before it.

    Args:
        user: Codes of the users, int64 [n].
        timestamp: Seconds, int64 [n].
        sequence: Tie-break within a second, int64 [n].
        item: Ranks of the items among all, int64 [n].
        clicked: 0 or 1, int64 [n].
        query_length: The most earlier clicks of a pair; strictly earlier ones, the latest.
        hard: The most items seen and not clicked of a pair; the nearest in time.
        max_per_user: The most pairs of one user, the latest; 0 for all.
    """
    histories = point_in_time_histories(user, timestamp, sequence, item, clicked, query_length)
    order = np.lexsort((clicked, item, sequence, timestamp, user))
    is_pair = (clicked[order] == 1) & (histories.end[order] > histories.start[order])
    if max_per_user:
        is_pair &= _places_from_the_end(user[order], is_pair) < max_per_user
    rows = order[is_pair]
    query, query_offsets = histories.of(rows)

    left = np.flatnonzero(clicked[order] == 0)  # sorted places of what was seen and not clicked
    of_user = user[order][left]
    first, last = (np.searchsorted(of_user, user[rows], side) for side in ("left", "right"))
    near = np.searchsorted(left, np.flatnonzero(is_pair)) - hard // 2
    start = np.maximum(first, np.minimum(near, last - hard))
    places, hard_offsets = flat_ranges(start, np.minimum(start + hard, last))
    return ImpressionPairs(rows, query, query_offsets, order[left[places]], hard_offsets)


def _places_from_the_end(user: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """How many rows to keep follow each row within its user's; rows stand user by user."""
    kept_so_far = np.cumsum(keep)
    _, start, count = np.unique(user, return_index=True, return_counts=True)
    total = kept_so_far[start + count - 1]
    return np.repeat(total, count) - kept_so_far
