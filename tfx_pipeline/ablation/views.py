"""Cuts of the test rows finer than its slices: by how popular an item is, and by how long it has been seen."""

from __future__ import annotations

import numpy as np

PARTS, DAY = 10, 86_400
AGES = {"first day": 1, "first week": 7, "first month": 30, "first year": 365, "older": np.inf}  # days, the most


def by_popularity(item: np.ndarray, clicks: np.ndarray) -> dict[str, np.ndarray]:
    """Tenths of the rows, by how often their item was clicked in training; the least popular first.

    Items of as many clicks stay together, so that a part may be larger than a tenth, and another may be missing.

    Args:
        item: Of each row, int [n].
        clicks: Of each item, int [items].

    Returns:
        "1 of 10" … → bool [n].
    """
    own = clicks[item]
    ordered = np.sort(own)
    middle = (np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")) / 2  # of those like it
    part = np.minimum(middle * PARTS // max(len(item), 1), PARTS - 1)
    found = {f"{place + 1} of {PARTS}": part == place for place in range(PARTS)}
    return {name: rows for name, rows in found.items() if rows.any()}


def by_age(item: np.ndarray, timestamp: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by how long ago their item was first seen by anybody; by name, bool [n].

    Args:
        item: Of each row, int [n].
        timestamp: Of each row, in seconds, int [n].
        first: When each item was first seen, in seconds, int [items].
    """
    days = (timestamp - first[item]) / DAY
    found, least = {}, -np.inf
    for name, most in AGES.items():
        found[name] = (days >= least) & (days < most)
        least = most
    return {name: rows for name, rows in found.items() if rows.any()}
