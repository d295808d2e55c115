"""The attributes of items as values that can be counted and looked up."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

BUCKETS, MAX_VALUES = 10, 10_000
# Attributes that ContentAttributes adds, with their kinds.
LEARNED: dict[str, Literal["categorical", "list"]] = {
    "image_cluster": "categorical",
    "text_cluster": "categorical",
    "text_words": "list",
}


def attribute_values(kind: str, values: np.ndarray) -> list[list[str]]:
    """The values of one attribute, a list for each item; none where it is unknown.

    A number becomes its bucket among `BUCKETS` of as many items each.  Of a categorical attribute or a list the
    commonest `MAX_VALUES` values are kept, if at least two items have them.

    Args:
        kind: `categorical`, `number` or `list`; `|` separates the values of a list.
        values: bytes [items].
    """
    if kind == "number":
        numbers = np.array([float(value) if value else 0.0 for value in values])
        buckets = np.searchsorted(number_bounds(values), numbers, side="right")
        return [[f"bucket {bucket}"] if value else [] for bucket, value in zip(buckets, values, strict=True)]
    lists = [value.decode().split("|") if kind == "list" else [value.decode()] for value in values]
    counts = Counter(value for own in lists for value in set(own) if value)
    common = {value for value, n in counts.most_common(MAX_VALUES) if n > 1}
    return [[value for value in dict.fromkeys(own) if value in common] for own in lists]


def number_bounds(values: np.ndarray) -> np.ndarray:
    """Between the buckets of a number's values, ascending, float64 [at most `BUCKETS` - 1].

    Args:
        values: bytes [items]; empty where unknown.
    """
    known = [float(value) for value in values if value]
    return np.unique(np.quantile(known, np.linspace(0, 1, BUCKETS + 1)[1:-1])) if known else np.zeros(0)
