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
    user, time, sequence, clicked, item = arrays(table)
    found = point_in_time_histories(user, time, sequence, item, clicked, length)
    for row in range(len(table)):
        own, offsets = found.of(np.array([row]))
        assert offsets.tolist() == [0, len(own)]
        earlier = [
            (time[other], sequence[other], item[other])
            for other in range(len(table))
            if user[other] == user[row]
            and clicked[other]
            and (time[other], sequence[other]) < (time[row], sequence[row])
        ]
        assert [(time[i], sequence[i], item[i]) for i in own] == sorted(earlier)[-length:]
        assert all(user[i] == user[row] and clicked[i] for i in own)
        assert len(set(own.tolist())) == len(own)


@given(rows, st.lists(st.integers(0, 4), min_size=40, max_size=40), st.integers(1, 5), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_a_click_counts_from_the_moment_of_the_click_and_a_lag_later(
    table: list[tuple[int, ...]], delays: list[int], length: int, lag: int
) -> None:
    user, time, sequence, clicked, item = arrays(table)
    clicked_at = time + np.array(delays[: len(table)], np.int64)
    found = point_in_time_histories(user, time, sequence, item, clicked, length, clicked_at, lag)
    for row in range(len(table)):
        own, _ = found.of(np.array([row]))
        earlier = [
            (clicked_at[other], item[other])
            for other in range(len(table))
            if user[other] == user[row] and clicked[other] and clicked_at[other] + lag < time[row]
        ]
        assert [(clicked_at[i], item[i]) for i in own] == sorted(earlier)[-length:]
        assert len(set(own.tolist())) == len(own)


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

    def moments(pair: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        return tuple((int(time[row]), int(sequence[row]), int(item[row])) for row in reversed(pair))

    for one, pairs in naive.items():
        own = [(int(q), int(i)) for q, i in zip(queries, items, strict=True) if user[q] == one]
        assert sorted(map(moments, own)) == sorted(map(moments, pairs))[-most:]
    assert len(queries) == sum(min(most, len(pairs)) for pairs in naive.values())


def test_segments_by_hand() -> None:
    clicks = np.array([0, 5, 6, 7, 8, 9, 10])
    limit = tail_limit(clicks)
    assert limit == 7  # the lower half of all items, its middle included
    assert segments(clicks, 5, limit).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert tail_limit(np.array([1, 2, 40])) == 2, "where half of the items are cold, there is no tail"
    assert segments(np.array([5, 6]), 5, 2).tolist() == [0, 2]
    assert tail_limit(np.zeros(0, np.int64)) == 0
