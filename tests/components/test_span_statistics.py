"""Statistics against a naive pass, for any log in any order; and the exported table against the examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.history_gen.span_statistics import (
    NEVER,
    NO_CLICK,
    CatalogueStatistics,
    ItemAttributes,
    UserStatistics,
    entity_names,
)
from components.history_gen.statistics_table import StatisticsSpec, _activity_of_items, _SumTables

SECONDS = 10
# (user, item, time, clicked, seconds until the click)
rows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 45), st.integers(0, 1), st.integers(0, 25)),
    min_size=1,
    max_size=40,
)
CATALOGUE = {
    "item_id": pa.array([b"i3", b"i0", b"i1", b"i2"], pa.binary()),  # i4 is not in it
    "category": pa.array([b"mug|cup", b"mug", b"", b"cup|rare"], pa.binary()),
    "brand": pa.array([b"x", b"x", b"y", b"y"], pa.binary()),
}
VALUES = {
    "category": {"i3": ["mug", "cup"], "i0": ["mug"], "i2": ["cup"]},
    "brand": {"i3": "x", "i0": "x", "i1": "y", "i2": "y"},
}
KINDS = {"category": "list", "brand": "categorical"}


def batch_of(table: list[tuple[int, ...]]) -> dict[str, pa.Array]:
    user, item, time, clicked, delay = (np.array(column, np.int64) for column in zip(*table, strict=True))
    return {
        "user_id": pa.array([f"u{one}".encode() for one in user], pa.binary()),
        "item_id": pa.array([f"i{one}".encode() for one in item], pa.binary()),
        "timestamp": pa.array(time),
        "clicked": pa.array(clicked),
        "clicked_at": pa.array(time + delay),
    }


def counted(table: list[tuple[int, ...]], spec: StatisticsSpec, now: float = 1e9) -> UserStatistics:
    """As the pipeline counts, in batches."""
    batch, combine = batch_of(table), _SumTables()
    accumulators = []
    for begin in range(0, len(table), 7):
        part = {name: values[begin : begin + 7] for name, values in batch.items()}
        accumulators.append(combine.add_input(combine.create_accumulator(), _activity_of_items(part, spec)))
    merged = combine.extract_output(combine.merge_accumulators(accumulators))
    attributes = ItemAttributes.of_items(CATALOGUE, spec.attributes)
    catalogue = CatalogueStatistics.of_activity(merged, attributes, spec.seconds, now)
    codes = catalogue.attributes.rows_of(batch["item_id"])
    user = np.array([row[0] for row in table], np.int64)
    return UserStatistics.of_activity(catalogue, spec.activity(batch), user, codes)


def naive(table: list[tuple[int, ...]], row: tuple[int, ...], lag: int) -> list[int]:
    """Counts for one row, by a look at every other."""
    begin = row[2] // SECONDS * SECONDS
    found: list[int] = []

    def values(item: int, attribute: str) -> list[str]:
        return list(VALUES[attribute].get(f"i{item}", []))

    def add(weight: Callable[[tuple[int, ...]], int]) -> None:
        sums = [0, 0, NEVER]
        for other in table:
            times = int(weight(other))
            if times and (other[2] + lag) // SECONDS * SECONDS < begin:
                sums[0] += times
            if times and other[3] and (other[2] + other[4] + lag) // SECONDS * SECONDS < begin:
                sums[1] += times
                sums[2] = max(sums[2], other[2] + other[4])
        found.extend([sums[0], sums[1], NO_CLICK if sums[2] == NEVER else begin - sums[2]])

    def shared(attribute: str, other: tuple[int, ...]) -> int:
        return len(set(values(row[1], attribute)) & set(values(other[1], attribute)))

    def shared_by_user(attribute: str, other: tuple[int, ...]) -> int:
        return shared(attribute, other) if other[0] == row[0] else 0

    add(lambda other: 1)
    add(lambda other: other[1] == row[1] != 4)  # which the catalogue lacks
    add(lambda other: other[0] == row[0])
    for attribute in KINDS:
        add(partial(shared, attribute))
        add(partial(shared_by_user, attribute))
    return found


@given(rows, st.integers(0, 12), st.randoms())
@settings(max_examples=200, deadline=None)
def test_counts_are_those_of_the_completed_spans(table: list[tuple[int, ...]], lag: int, random: Random) -> None:
    random.shuffle(table)
    spec = StatisticsSpec(KINDS, SECONDS, lag)
    statistics = counted(table, spec)
    user, _, time = (np.array([row[place] for row in table], np.int64) for place in range(3))
    codes = statistics.catalogue.attributes.rows_of(batch_of(table)["item_id"])
    found = statistics.of_rows(user, codes, time)
    assert found.shape == (len(table), 3 * len(entity_names(KINDS)))
    for row, counts in zip(table, found.tolist(), strict=True):
        assert counts == naive(table, row, lag)


def test_a_span_that_is_not_over_is_not_exported() -> None:
    table = [(0, 0, 5, 1, 0), (0, 0, 15, 1, 0), (0, 0, 25, 1, 0)]
    spec = StatisticsSpec(KINDS, SECONDS)
    assert counted(table, spec).catalogue.end == 3, "all spans of the log are over"
    assert counted(table, spec, now=27.0).catalogue.end == 2, "the third is not"


def test_items_that_are_launched_late_are_not_counted() -> None:
    table = [(0, item, 5, 1, 0) for item in range(5)] + [(0, 0, 15, 0, 0)]
    spec = StatisticsSpec(KINDS, SECONDS, new_items=2)
    from components.new_items import launched_late

    late = launched_late(batch_of(table)["item_id"], 2)
    statistics = counted(table, spec)
    found = statistics.of_rows(np.array([0]), np.array([0]), np.array([15]))
    assert 0 < late.sum() < len(table)
    assert found[0, 0] == (~late[:5]).sum()
