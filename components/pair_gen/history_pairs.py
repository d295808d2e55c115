"""Pairs from histories: an earlier click of a user and a later one, not far apart."""

from __future__ import annotations

import numpy as np


def history_pairs(
    user: np.ndarray,
    timestamp: np.ndarray,
    sequence: np.ndarray,
    item: np.ndarray,
    window_seconds: int,
    max_gap: int,
    max_per_user: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clicked rows of one user, the query strictly before the item.

    Args:
        user: Codes of the users, int64 [n]; all rows are clicks.
        timestamp: Seconds, int64 [n].
        sequence: Tie-break within a second, int64 [n].
        item: Ranks of the items among all, int64 [n]; an item makes no pair with itself.
        window_seconds: The most time between the two.
        max_gap: How many places apart the two clicks may lie; 1 pairs neighbours only.
        max_per_user: The most pairs of one user; those whose later click is latest are kept, and of these those
            whose earlier click is; 0 for all.

    Returns:
        Rows of the queries and rows of the items, int64 [pairs] each.
    """
    if len(user) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.lexsort((item, sequence, timestamp, user))
    queries, items = [], []
    for gap in range(1, max_gap + 1):
        earlier, later = order[:-gap], order[gap:]
        keep = (user[earlier] == user[later]) & (item[earlier] != item[later])
        keep &= timestamp[later] - timestamp[earlier] <= window_seconds
        keep &= (timestamp[later] > timestamp[earlier]) | (sequence[later] > sequence[earlier])
        queries.append(earlier[keep])
        items.append(later[keep])
    query_row, item_row = np.concatenate(queries), np.concatenate(items)
    # The latest first within each user, and no more than allowed; no matter in which order the rows came.
    moments = [(-item[row], -sequence[row], -timestamp[row]) for row in (query_row, item_row)]
    latest = np.lexsort((*moments[0], *moments[1], user[item_row]))
    query_row, item_row = query_row[latest], item_row[latest]
    sizes = np.bincount(user[item_row], minlength=1)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(item_row)) - starts[user[item_row]]
    keep = place < (max_per_user or len(place))
    return query_row[keep], item_row[keep]
