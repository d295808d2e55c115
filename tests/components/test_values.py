"""How shops write ids, times and numbers, and what is read."""

from __future__ import annotations

import datetime
import decimal
import time
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract.values import (
    EARLIEST,
    LATEST,
    parse_embeddings,
    parse_ids,
    parse_integers,
    parse_lists,
    parse_numbers,
    parse_text,
    parse_times,
    strip_html,
)

MOMENTS = st.integers(EARLIEST * 1_000_000, LATEST * 1_000_000 - 1)


def utc(micros: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=micros)


@given(st.lists(MOMENTS, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_every_unit_and_form_is_the_same_moment(micros: list[int]) -> None:
    numbers = np.array(micros, np.int64)
    seconds = (numbers // 1_000_000).tolist()
    moments = [utc(one) for one in micros]
    forms: dict[str, tuple[Any, int]] = {
        "seconds": (pa.array(seconds), 1_000_000),
        "seconds in text": (pa.array([str(one) for one in seconds]), 1_000_000),
        "float seconds": (pa.array([float(one) for one in seconds]), 1_000_000),
        "ms": (pa.array(numbers // 1_000), 1_000),
        "us": (pa.array(numbers), 1),
        "ns": (pa.array(numbers * 1_000) if numbers.max() < 2**62 // 1_000 else pa.array(numbers), 1),
        "ISO": (pa.array([one.isoformat() for one in moments]), 1),
        "ISO in Tokyo": (pa.array([one.astimezone(ZoneInfo("Asia/Tokyo")).isoformat() for one in moments]), 1),
        "Z": (pa.array([one.strftime("%Y-%m-%d %H:%M:%SZ") for one in moments]), 1_000_000),
        "dots": (pa.array([one.strftime("%d.%m.%Y %H:%M:%S") for one in moments]), 1_000_000),
        "digits": (pa.array([one.strftime("%Y%m%d%H%M%S") for one in moments]), 1_000_000),
        "Arrow ms": (pa.array(moments, pa.timestamp("ms")), 1_000),
        "Arrow with a zone": (pa.array(moments, pa.timestamp("us", "Europe/Berlin")), 1),
        "mixed": (pa.array([str(one // 1_000) if one % 2 else utc(one).isoformat() for one in micros]), 1_000),
    }
    for form, (written, resolution) in forms.items():
        found = parse_times(written)
        assert not found.missing.any()
        assert not found.bad.any(), form
        assert (found.values // resolution).tolist() == (numbers // resolution).tolist(), form


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
@given(seconds=st.integers(EARLIEST, LATEST - 1))
@settings(max_examples=100, deadline=None)
def test_a_wall_clock_is_read_in_its_zone(zone: str, seconds: int) -> None:
    wall = utc(seconds * 1_000_000).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    expected = (
        int(wall.replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000
    )  # of the hour that comes twice, the first
    for written in (pa.array([wall.isoformat(" ")]), pa.array([wall], pa.timestamp("s"))):
        assert parse_times(written, timezone=zone).values.tolist() == [expected]
    declared = pa.array([wall.strftime("%d/%m/%y %H-%M-%S")])
    if 1990 <= wall.year < 2068:  # of two digits
        assert parse_times(declared, "%d/%m/%y %H-%M-%S", zone).values.tolist() == [expected]


def test_what_is_no_time_is_bad_and_what_is_empty_is_missing() -> None:
    wrong = [
        "soon",
        "2024-13-01",
        "31.04.2024",
        "2024-01-01T25:00",
        "2024-01-01 10:61",
        "1.7e9",
        "12:30",
        "2024-01-01+99:00",
    ]
    found = parse_times(pa.array([*wrong, "", None, " "]))
    assert found.bad.tolist() == [True] * len(wrong) + [False] * 3
    assert found.missing.tolist() == [False] * len(wrong) + [True] * 3
    assert parse_times(pa.array([float("nan"), float("inf"), 1e300])).bad.tolist() == [False, True, True]
    assert parse_times(pa.array([True])).bad.all()


def test_offsets_of_half_an_hour_and_declared_units() -> None:
    assert parse_times(pa.array(["2023-11-15T03:43:20+05:30"])).values.tolist() == [1_700_000_000_000_000]
    assert parse_times(pa.array(["2023-11-14T24:00:00Z", "2016-12-31T23:59:60Z"])).bad.tolist() == [False, False]
    for form, number in (("s", 1_700_000_000), ("ms", 5_000), ("us", 5_000_000), ("ns", 5_000_000_000)):
        seconds = 1_700_000_000 if form == "s" else 5  # 1970, which no size would tell
        assert (parse_times(pa.array([number]), form).values // 1_000_000).tolist() == [seconds]
        assert (parse_times(pa.array([str(number)]), form).values // 1_000_000).tolist() == [seconds]


def test_a_date_is_its_first_moment() -> None:
    day = 1_699_920_000_000_000
    for written in ("2023-11-14", "2023/11/14", "14.11.2023", "20231114"):
        assert parse_times(pa.array([written])).values.tolist() == [day], written
    assert parse_times(pa.array([20_231_114])).values.tolist() == [day]
    for kind in (pa.date32(), pa.date64()):
        assert parse_times(pa.array([datetime.date(2023, 11, 14)], kind)).values.tolist() == [day]


@given(st.lists(st.integers(-(10**22), 10**22), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_integers_of_any_size_are_one_id_whoever_wrote_them(ids: list[int]) -> None:
    expected = [str(one) for one in ids]
    assert parse_ids(pa.array(expected)).values.to_pylist() == expected
    assert parse_ids(pa.array([f"{one}.0" for one in ids])).values.to_pylist() == expected
    assert parse_ids(pa.array([f" {one} " for one in ids])).values.to_pylist() == expected
    small = [one for one in ids if abs(one) < 10**15]
    assert parse_ids(pa.array([float(one) for one in small], pa.float64())).values.to_pylist() == [
        str(one) for one in small
    ]
    written = [f"{float(one):.15e}" for one in small if one]  # 6.806634100033000e+12, which has all digits
    read = parse_ids(pa.array(written, pa.string())).values.to_pylist()
    assert read == [str(one) for one in small if one]


def test_ids_of_other_types() -> None:
    assert parse_ids(pa.array([2**64 - 1], pa.uint64())).values.to_pylist() == [str(2**64 - 1)]
    found = parse_ids(pa.array([1.0, None, float("nan"), 1.5]))
    assert (found.values.to_pylist(), found.missing.tolist(), found.bad.tolist()) == (
        ["1", None, None, None],
        [False, True, True, False],
        [False, False, False, True],
    )
    found = parse_ids(pa.array([decimal.Decimal("1.50"), decimal.Decimal("7.00")]))
    assert found.bad.tolist() == [True, False]
    assert found.values.to_pylist()[1] == "7"
    assert parse_ids(pa.array(["A-1", "1e5", "007", "a.0", "1.5"])).values.to_pylist() == [
        "A-1",
        "1e5",
        "007",
        "a.0",
        "1.5",
    ]
    assert parse_ids(pa.array(["1.25e+1", "1.25e+2"])).values.to_pylist() == [None, "125"]
    nothing = parse_ids(pa.array(["NULL", "\\N", "nan", "None", "(not set)", "null-1"]))
    assert nothing.missing.tolist() == [True] * 5 + [False]


def test_whole_numbers() -> None:
    written = ["1", "0", "+1", "1.0", "true", "No", "", None, "1.5", "perhaps", "٣"]
    found = parse_integers(pa.array(written))
    assert found.values.tolist()[:6] == [1, 0, 1, 1, 1, 0]
    assert found.missing.tolist() == [False] * 6 + [True] * 2 + [False] * 3
    assert found.bad.tolist() == [False] * 8 + [True] * 3
    assert parse_integers(pa.array([2.0**53, 2.0**53 - 1])).bad.tolist() == [True, False]
    assert parse_integers(pa.array([2**64 - 1, 1], pa.uint64())).bad.tolist() == [True, False]


@pytest.mark.parametrize(
    ("decimal_sign", "written", "expected"),
    [
        (",", "34,99", 34.99),
        (",", "1.299,00 €", 1299.0),
        (",", "€ 1.234.567,5", 1234567.5),
        (",", "1 299,5", 1299.5),
        (",", "-3", -3.0),
        (".", "$1,299.00", 1299.0),
        (".", "CHF 1'299.50", 1299.5),
        (".", "12 EUR", 12.0),
        (".", "1e3", 1000.0),
        (".", "15%", 15.0),
    ],
)
def test_prices(decimal_sign: str, written: str, expected: float) -> None:
    found = parse_numbers(pa.array([written]), decimal_sign)
    assert found.values.tolist() == [expected]
    assert not found.bad.any()


def test_what_is_no_number() -> None:
    assert parse_numbers(pa.array(["9" * 400])).bad.tolist() == [True]
    found = parse_numbers(pa.array(["on request", "1.2.3", "12-13", "", None, "size 12"]))
    assert found.bad.tolist() == [True, True, True, False, False, True]
    assert found.missing.tolist() == [False, False, False, True, True, False]
    assert parse_numbers(pa.array([float("inf"), float("nan")])).bad.tolist() == [True, False]


def test_html_becomes_text() -> None:
    written = "<p>Our <b>midi</b>&nbsp;dress &ndash; 30&euro;</p><ul><li>cotton<li>blue</ul><script>x < 1</script>"
    assert strip_html(pa.array([written, "a < b", None, "<br>"])).to_pylist() == [
        "Our midi dress – 30€ cotton blue",
        "a < b",
        None,
        None,
    ]


@pytest.mark.parametrize(
    "text", ["<!--" * 60_000, "<script" * 40_000, "<div " * 100_000, "<style>" * 40_000 + "</style>"]
)
def test_html_that_is_never_closed_takes_no_time(text: str) -> None:
    begun = time.monotonic()
    strip_html(pa.array([f"a {text}"]))
    assert time.monotonic() - begun < 10  # it took minutes


def test_lists_and_texts_of_several_values() -> None:
    assert parse_lists(pa.array(["Women > Dresses > ", None, ">"]), ">").values.to_pylist() == [
        "Women|Dresses",
        None,
        None,
    ]
    assert parse_lists(pa.array(["a|b|a", "|a"])).values.to_pylist() == ["a|b", "a"]
    lists = pa.array([["a", "b|c", None, ""], [], None])
    for kind in (pa.list_(pa.string()), pa.large_list(pa.string())):
        assert parse_lists(lists.cast(kind)).values.to_pylist() == ["a|b/c", None, None]
    fixed = pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string(), 2))
    assert parse_lists(fixed).values.to_pylist() == ["a|b", None, "c"]


def test_text_of_other_types() -> None:
    found = parse_text(pa.array([b"caf\xc3\xa9", b"caf\xe9", b" ", None]))
    assert found.values.to_pylist() == ["café", None, None, None]
    assert found.bad.tolist() == [False, True, False, False]
    assert found.missing.tolist() == [False, False, True, True]
    assert parse_text(pa.array([1.0, 1.5, None])).values.to_pylist() == ["1", "1.5", None]


def test_embeddings_are_lists_or_text_of_as_many_numbers() -> None:
    for values in (
        pa.array([[1.0, 2.0], None, [1.0], [1.0, None], [float("inf"), 0.0]]),
        pa.array([[1.0, 2.0], None, [1.0], [1.0, None], [1e39, 0.0]]),
        pa.array(["[1, 2.0]", "", "1", "1,x", "nan, 0"]),
        pa.array(["[1.  2.]", None, "1 2 3", "1;x", "1e39 0"]),
    ):
        parsed = parse_embeddings(values, 2)
        assert parsed.values.tolist() == [[1.0, 2.0]] + [[0.0, 0.0]] * 4
        assert parsed.missing.tolist() == [False, True, False, False, False]
        assert parsed.bad.tolist() == [False, False, True, True, True]
    records = parse_embeddings(pa.array([{"a": 1.0}, None]), 2)
    assert (records.missing.tolist(), records.bad.tolist()) == ([False, True], [True, False])
    assert not np.signbit(parse_embeddings(pa.array([[-0.0, -0.0]]), 2).values).any()
    assert parse_embeddings(pa.array(["0.5;1"]), 2, ";").values.tolist() == [[0.5, 1.0]]
    fixed = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    assert parse_embeddings(fixed, 2).values.tolist() == [[1.0, 2.0]]
