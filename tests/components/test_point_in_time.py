"""Histories and pairs against naive loops, for any log in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.history_gen.point_in_time import point_in_time_histories, segments, tail_limit
from components.pair_gen.history_pairs import history_pairs

# few users, seconds and sequence numbers, so that ties are common
rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 2), st.integers(0, 1), st.integers(0, 4)),
    max_size=40,
)


def arrays(table: list[tuple[int, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column, np.int64) for column in zip(*table, strict=True)) or (np.zeros(0, np.int64),) * 5


@given(rows, st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_histories_are_the_strictly_earlier_clicks(table: list[tuple[int, ...]], length: int) -> None:
    user, time, sequence, clicked, _ = arrays(table)
    found = point_in_time_histories(user, time, sequence, clicked, length)
    for row in range(len(table)):
        own = found.clicks[found.offsets[row] : found.offsets[row + 1]]
        earlier = [
            (time[other], sequence[other])
            for other in range(len(table))
            if user[other] == user[row]
            and clicked[other]
            and (time[other], sequence[other]) < (time[row], sequence[row])
        ]
        assert [(time[i], sequence[i]) for i in own] == sorted(earlier)[-length:]
        assert all(user[i] == user[row] and clicked[i] for i in own)
        assert len(set(own.tolist())) == len(own)


@given(rows, st.randoms())
@settings(max_examples=100, deadline=None)
def test_order_of_arrival_does_not_matter(table: list[tuple[int, ...]], random: object) -> None:
    # distinct moments, so that the order of ties cannot differ either
    table = [(user, place, 0, clicked, item) for place, (user, _, _, clicked, item) in enumerate(table)]
    shuffled = list(range(len(table)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    histories = []
    for order in (range(len(table)), shuffled):
        user, time, sequence, clicked, _ = arrays([table[i] for i in order])
        found = point_in_time_histories(user, time, sequence, clicked, 3)
        histories.append(
            {
                int(time[row]): [int(time[i]) for i in found.clicks[found.offsets[row] : found.offsets[row + 1]]]
                for row in range(len(table))
            }
        )
    assert histories[0] == histories[1]


@given(rows, st.integers(1, 3), st.integers(0, 6), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_pairs_are_neighbouring_clicks_in_the_window(
    table: list[tuple[int, ...]], gap: int, window: int, most: int
) -> None:
    clicks = [row for row in table if row[3]]
    if not clicks:
        return
    user, time, sequence, _, item = arrays(clicks)
    queries, items = history_pairs(user, time, sequence, item, window, gap, most)
    naive: dict[int, list[tuple[int, int]]] = {}
    for one in set(user.tolist()):
        own = sorted(np.flatnonzero(user == one), key=lambda i: (time[i], sequence[i], item[i]))
        for a in range(len(own)):
            for b in range(a + 1, min(a + gap, len(own) - 1) + 1):
                i, j = own[a], own[b]
                strictly = (time[i], sequence[i]) < (time[j], sequence[j])
                if item[i] != item[j] and time[j] - time[i] <= window and strictly:
                    naive.setdefault(one, []).append((int(i), int(j)))
    for one, pairs in naive.items():
        own = [(int(q), int(i)) for q, i in zip(queries, items, strict=True) if user[q] == one]
        assert len(own) == min(most, len(pairs))
        assert set(own) <= set(pairs) or {(time[q], item[q], time[i], item[i]) for q, i in own} <= {
            (time[q], item[q], time[i], item[i]) for q, i in pairs
        }
        kept = sorted((time[i], sequence[i]) for _, i in own)
        assert kept == sorted((time[i], sequence[i]) for _, i in pairs)[-len(kept) :]
    assert len(queries) == sum(min(most, len(pairs)) for pairs in naive.values())


def test_segments_by_hand() -> None:
    clicks = np.array([0, 5, 6, 7, 8, 9, 10])
    limit = tail_limit(clicks)
    assert limit == 7  # the lower half of all items, its middle included
    assert segments(clicks, 5, limit).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert tail_limit(np.array([1, 2, 40])) == 2, "where half of the items are cold, there is no tail"
    assert segments(np.array([5, 6]), 5, 2).tolist() == [0, 2]
    assert tail_limit(np.zeros(0, np.int64)) == 0
