"""What becomes of a log does not depend on how it arrives: for any rows, in any order, in any batches."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components import splits
from components.columns import Columns
from components.examples import SPLITS, decode
from components.history_gen import join
from components.pair_gen.executor import PairsOfBucket

# Few users, items, seconds and sequence numbers, so that ties are common.
Row = tuple[int, int, int, int, int, int]  # user, item, timestamp, sequence, clicked, split
rows = st.lists(
    st.tuples(*(st.integers(0, most) for most in (2, 4, 6, 1, 1, 2))).map(lambda row: (*row,)), min_size=1, max_size=40
)
NAMES = ("user_id", "item_id", "timestamp", "sequence", "clicked", join.SPLIT)


def columns_of(log: list[Row]) -> Columns:
    columns = dict(zip(NAMES, zip(*log, strict=True), strict=True))
    made = {name: pa.array(values, pa.int64()) for name, values in columns.items()}
    for name in ("user_id", "item_id"):
        made[name] = pa.array([f"{name[0]}{value}".encode() for value in columns[name]], pa.binary())
    return made


def in_batches(log: list[Row], chance: random.Random) -> list[Columns]:
    """The rows in another order, in batches of any size."""
    log = chance.sample(log, len(log))
    cuts = sorted({0, len(log), *(chance.randrange(len(log)) for _ in range(3))})
    return [columns_of(log[begin:end]) for begin, end in itertools.pairwise(cuts)]


def ranking_examples(batches: list[Columns], clicks: dict[bytes, int], length: int) -> Counter[Any]:
    """All rows that HistoryGen makes of a bucket, as plain values."""
    found: Counter[Any] = Counter()
    decoder, encode = ExamplesToRecordBatchDecoder(), join.EncodePieces()
    outputs = list(join.Join(length, 1, (), 0).process((0, {"impressions": batches}), clicks))
    outputs += [part for output in outputs if output.tag == join.BUSY for part in encode.process(output.value)]
    for output in outputs:
        if output.tag != join.BUSY:
            columns = decode(decoder, output.value, lists=("history_item_ids", "history_ages"))
            table = {name: values.to_pylist() for name, values in columns.items()}
            for row in range(len(output.value)):
                one = {name: values[row] for name, values in table.items()}
                histories = tuple(tuple(one.pop(name) or ()) for name in ("history_item_ids", "history_ages"))
                found[(output.tag, *sorted(one.items()), *histories)] += 1
    return found


def naive_examples(log: list[Row], clicks: dict[bytes, int], length: int) -> Counter[Any]:
    """The same, one row after the other."""
    found: Counter[Any] = Counter()
    middle = sorted(clicks.values())[(len(clicks) - 1) // 2] if clicks else 0
    for user, item, time, sequence, clicked, split in log:
        earlier = sorted((t, s, i) for u, i, t, s, c, _ in log if u == user and c == 1 and (t, s) < (time, sequence))[
            -length:
        ]
        own = clicks.get(f"i{item}".encode(), 0)
        one = {
            "user_id": f"u{user}".encode(),
            "item_id": f"i{item}".encode(),
            "timestamp": time,
            "sequence": sequence,
            "clicked": clicked,
            "segment": b"cold" if own <= 1 else b"tail" if own <= middle else b"rest",
        }
        items = tuple(f"i{i}".encode() for _, _, i in earlier)
        found[(SPLITS[split], *sorted(one.items()), items, tuple(time - t for t, _, _ in earlier))] += 1
    return found


@given(rows, st.integers(1, 4), st.randoms(use_true_random=False), st.sampled_from([0, 3, 50_000]))
@settings(max_examples=150, deadline=None)
def test_histories_equal_a_naive_pass(log: list[Row], length: int, chance: random.Random, busy: int) -> None:
    clicks = {f"i{item}".encode(): item for item in range(4)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "BUSY_ROWS", busy)  # all users are shared out, some, none
        patch.setattr(join, "PIECE_ROWS", 3)
        assert ranking_examples(in_batches(log, chance), clicks, length) == naive_examples(log, clicks, length)


@given(rows, st.randoms(use_true_random=False), st.integers(1, 3), st.integers(0, 6), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_pairs_do_not_depend_on_the_order(
    log: list[Row], chance: random.Random, gap: int, window: int, most: int
) -> None:
    def pairs(batches: list[Columns]) -> Counter[Any]:
        return plain_pairs(batches, {"window_seconds": window, "max_gap": gap, "max_per_user": most})

    assert pairs(in_batches(log, chance)) == pairs([columns_of(log)])


@given(rows, st.randoms(use_true_random=False), st.integers(1, 3), st.integers(0, 3), st.integers(0, 4))
@settings(max_examples=150, deadline=None)
def test_pairs_of_impressions_equal_a_naive_pass(
    log: list[Row], chance: random.Random, length: int, hard: int, most: int
) -> None:
    wanted = {"query_length": length, "hard": hard, "max_per_user": most}
    assert plain_pairs(in_batches(log, chance), wanted) == naive_pairs(log, length, hard, most)


def plain_pairs(batches: list[Columns], wanted: dict[str, int]) -> Counter[Any]:
    """Query items, item, hard negatives and time of each pair."""
    (columns,) = PairsOfBucket("hard" in wanted, wanted).process((0, batches))
    names = ("query_item_ids", "item_id", "hard_item_ids", "timestamp")
    values = zip(*(columns[name].to_pylist() for name in names), strict=True)
    return Counter((tuple(query), item, tuple(near), time) for query, item, near, time in values)


def naive_pairs(log: list[Row], length: int, hard: int, most: int) -> Counter[Any]:
    """One user, one click after the other."""
    found: Counter[Any] = Counter()
    for user in {row[0] for row in log}:
        moments = sorted((time, sequence, item, clicked) for u, item, time, sequence, clicked, _ in log if u == user)
        pairs = []
        for place, (time, sequence, item, clicked) in enumerate(moments):
            query = [i for t, s, i, c in moments if c and (t, s) < (time, sequence)][-length:]
            if clicked and query:
                before = [i for *_, i, c in moments[:place] if not c]
                after = [i for *_, i, c in moments[place:] if not c]
                begin = max(0, min(len(before) - hard // 2, len(before) + len(after) - hard))
                near = (before + after)[begin : begin + hard]
                names = [tuple(f"i{i}".encode() for i in ids) for ids in (query, near)]
                pairs.append((names[0], f"i{item}".encode(), names[1], time))
        found.update(pairs[-most:] if most else pairs)
    return found


@given(rows, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_splits_in_time_never_overlap(log: list[Row], chance: random.Random) -> None:
    fractions = (0.6, 0.2, 0.2)
    combine = splits.TimeHistogram()
    parts = [
        combine.add_input(combine.create_accumulator(), b["timestamp"].to_numpy()) for b in in_batches(log, chance)
    ]
    histogram = combine.extract_output(combine.merge_accumulators(parts))
    times = np.array([row[2] for row in log])
    boundaries = splits.time_boundaries(histogram, fractions)
    code = splits.split_by_time(times, boundaries)
    assert set(code.tolist()) <= {0, 1, 2}
    for earlier in (0, 1):
        if np.any(code == earlier) and np.any(code > earlier):
            assert times[code == earlier].max() < times[code > earlier].min()
    assert boundaries == (naive_boundary(times, 0.6), naive_boundary(times, 0.8))
    assert code.tolist() == [sum(bool(time >= boundary) for boundary in boundaries) for time in times]


def naive_boundary(times: np.ndarray, share: float) -> int:
    """The first time before which lies so large a share of the rows; the last time where none does."""
    for time in sorted(set(times.tolist())):
        if sum(one < time for one in times.tolist()) >= share * len(times) - 1e-9:
            return int(time)
    return int(times.max())


@pytest.mark.parametrize(("fractions", "sizes"), [((0.6, 0.2, 0.2), (60, 20, 20)), ((0.8, 0.1, 0.1), (80, 10, 10))])
def test_splits_in_time_have_their_sizes(fractions: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    times = np.random.default_rng(0).permutation(np.arange(100) * 7)
    combine = splits.TimeHistogram()
    histogram = combine.extract_output(combine.add_input(combine.create_accumulator(), times))
    code = splits.split_by_time(times, splits.time_boundaries(histogram, fractions))
    assert tuple(np.bincount(code, minlength=3)) == sizes


@given(rows, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_splits_of_users_follow_their_own_time(log: list[Row], chance: random.Random) -> None:
    def split(batches: list[Columns]) -> Counter[Any]:
        columns, code = splits.split_users_of_bucket((0, batches), (0.6, 0.2, 0.2))
        return Counter(zip(*(columns[name].to_pylist() for name in NAMES), code.tolist(), strict=True))

    found = split(in_batches(log, chance))
    assert found == split([columns_of(log)])
    for user in {row[0] for row in log}:
        own = sorted((key[2], key[3], key[-1]) for key in found.elements() if key[0] == f"u{user}".encode())
        for earlier, later in itertools.pairwise(own):
            assert earlier[:2] == later[:2] or earlier[2] <= later[2]
        assert sum(code == 0 for _, _, code in own) == int(len(own) * 0.6 + 1e-9)
