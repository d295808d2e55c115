"""How a shop writes ids, times, numbers and texts, and what they mean.  Whole columns at a time.

Each `parse_*` returns the values and two masks, bool [n]: which are missing, and which cannot be read.
"""

from __future__ import annotations

import html
import re
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.representation_center.ids import EXACT, IdError, normalize_id

EARLIEST, LATEST = 631_152_000, 4_102_444_800  # seconds since 1970: the years 1990 to 2099
MICROS = 1_000_000
UNITS = {"s": MICROS, "ms": 1_000, "us": 1, "ns": 1}  # microseconds of one; nanoseconds are divided
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)$"
_ISO = (
    r"^(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    r"(?:(?:[Tt]| +)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?$"
)
_DOTS = (
    r"^(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})"
    r"(?:,? +(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?(?P<zone>)$"
)
_DIGITS = (
    r"^(?P<year>(?:19|20)\d{2})(?P<month>\d{2})(?P<day>\d{2})"
    r"(?:T?(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?P<fraction>))?(?P<zone>Z?)$"
)
YES = ("true", "yes", "y", "t", "ja", "j", "oui", "si", "sí", "sim", "tak", "evet", "はい", "是", "да")
NO = ("false", "no", "n", "f", "nein", "non", "não", "nie", "nej", "hayır", "hayir", "いいえ", "否", "нет")
SURE, MOST_CLICKED, FEWEST_CLICKS = 0.98, 0.9, 20  # of `always_clicked`
NO_TEXTS = ("NULL", "null", "\\N", "NaN", "nan", "NAN", "#N/A", "(not set)")  # `None` may be a value: no pattern
_NO_TEXTS = pa.array(["", *NO_TEXTS])
NO_IDS = ("NULL", "null", "Null", "\\N", "NaN", "nan", "NAN", "None", "none", "(not set)", "undefined", "N/A", "#N/A")
_MONEY = r"([A-Z]{0,2}\p{Sc}|[A-Z]{3}|kr\.?|zł|Fr\.?|Rs\.?)"
_LAYOUTS = (_ISO, _DOTS, _DIGITS)


class Parsed(NamedTuple):
    """Values [n], and which of them are missing or cannot be read, bool [n]."""

    values: Any  # pyarrow.Array of text, numpy.ndarray of numbers
    missing: np.ndarray
    bad: np.ndarray


def parse_text(values: pa.Array) -> Parsed:
    """Any column of plain values as text without blanks around it; bytes must be UTF-8.

    An empty text is missing, and so is what databases and tools write for a missing value (`NO_TEXTS`).
    """
    n = len(values)
    bad = np.zeros(n, bool)
    kind = values.type
    if is_binary(kind):
        text, bad = _decode(values)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text, bad = _decode(values.cast(pa.large_binary()))  # through bytes: a file may call text what is none
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        text = parse_ids(values).values  # whole numbers as such
        text = pc.if_else(text.is_null(), values.cast(pa.string()), text)
    else:
        text = values.cast(pa.string())
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, _NO_TEXTS), None, text)
    return Parsed(text, _nulls(text) & ~bad, bad)


def parse_ids(values: pa.Array) -> Parsed:
    """Ids as text, the same in every table, event and request.

    What databases and tools write for a missing value (`NO_IDS`) is missing.  An integer of any size is its digits.
    pandas makes floats of integers where one is missing, and writes them as `12.0` or `6.8e+12`: they are the integers
    that they were.  A fraction cannot be an id, nor a float of 2^53 or more, which has lost digits.
    """
    kind = values.type
    n = len(values)
    if pa.types.is_integer(kind):
        text = values.cast(pa.string())
        return Parsed(text, _nulls(text), np.zeros(n, bool))
    if pa.types.is_floating(kind):
        numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        whole = np.isfinite(numbers) & (np.floor(numbers) == numbers)
        exact = whole & (np.abs(numbers) < EXACT)
        text = pa.array(np.where(exact, numbers, 0).astype(np.int64)).cast(pa.string())
        return Parsed(pc.if_else(pa.array(exact), text, None), missing, ~missing & ~exact)
    if pa.types.is_decimal(kind):
        text = pc.replace_substring_regex(values.cast(pa.string()), r"\.0*$", "")
        fraction = pc.fill_null(pc.match_substring(text, "."), False).to_numpy(zero_copy_only=False)
        return Parsed(text, _nulls(text), fraction)
    parsed = parse_text(values)
    nothing = _true(pc.is_in(parsed.values, pa.array(NO_IDS)))
    if nothing.any():
        text = pc.if_else(pa.array(nothing), None, parsed.values)
        parsed = Parsed(text, parsed.missing | nothing, parsed.bad)
    written = pc.match_substring_regex(parsed.values, r"^[+-]?(\d+\.0+|\d+(\.\d+)?e\+\d+|\d\.\d+E\+?\d+)$")
    rows = np.flatnonzero(pc.fill_null(written, False).to_numpy(zero_copy_only=False))
    if not len(rows):
        return parsed
    plain, bad = parsed.values.to_pylist(), parsed.bad.copy()
    for row in rows:
        try:
            plain[row] = normalize_id(plain[row])
        except IdError:
            plain[row], bad[row] = None, True
    return Parsed(pa.array(plain, pa.string()), parsed.missing, bad)


def parse_times(values: pa.Array, form: str = "auto", timezone: str = "UTC") -> Parsed:
    """Times as microseconds since 1970, int64 [n].

    Args:
        values: Numbers, text, or any of Arrow's times.
        form: See `Column.time`.
        timezone: Of times without a zone.

    Example:
        >>> import pyarrow as pa
        >>> from components.contract.values import parse_times
        >>> written = pa.array(["1700000000", "1700000000000", "2023-11-14T23:13:20+01:00", "14.11.2023 22:13:20"])
        >>> (parse_times(written).values // 1_000_000).tolist()
        [1700000000, 1700000000, 1700000000, 1700000000]
    """
    kind = values.type
    if pa.types.is_timestamp(kind):
        micros = values.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
        found = pc.fill_null(micros, 0).to_numpy(zero_copy_only=False)
        found = found if kind.tz else _to_utc(found, timezone)
        return Parsed(found, _nulls(values), np.zeros(len(values), bool))
    if pa.types.is_date(kind):
        micros = values.cast(pa.timestamp("us")).cast(pa.int64())
        found = _to_utc(pc.fill_null(micros, 0).to_numpy(zero_copy_only=False), timezone)
        return Parsed(found, _nulls(values), np.zeros(len(values), bool))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if form in ("auto", *UNITS):
            return _numeric_times(values, form)
    elif pa.types.is_boolean(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        return Parsed(np.zeros(len(values), np.int64), _nulls(values), ~_nulls(values))
    text = parse_text(values)
    if form not in ("auto", *UNITS):
        return _declared_times(text, form, timezone)
    number = _true(pc.match_substring_regex(text.values, _NUMBER))
    numbers = pc.if_else(pa.array(number), text.values, None).cast(pa.float64())
    exact = _true(pc.match_substring_regex(text.values, r"^[+-]?\d{1,18}$"))  # a double holds microseconds inexactly
    integers = pc.if_else(pa.array(exact), pc.replace_substring_regex(text.values, r"^\+", ""), None).cast(pa.int64())
    by_number = _numeric_times(numbers, form)
    by_integer = _numeric_times(integers, form)
    found = np.where(exact, by_integer.values, by_number.values)
    done = np.where(exact, ~by_integer.bad, number & ~by_number.bad)
    if form == "auto":
        for layout in _LAYOUTS:
            parts, matched = _civil(text.values, layout, timezone)
            found = np.where(matched & ~done, parts, found)
            done |= matched
        done |= number  # no unit gives a time in 1990 to 2099; the caller rejects it by its range
    return Parsed(found, text.missing, ~text.missing & ~done)


def _numeric_times(values: pa.Array, form: str) -> Parsed:
    """Numbers of a unit, or of the unit in which they lie between 1990 and 2099.  YYYYMMDD is bad here."""
    missing = _nulls(values)
    if pa.types.is_integer(values.type):
        numbers = pc.fill_null(values, 0).cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)
        bad = np.zeros(len(missing), bool)
    else:
        floats = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
        missing = missing | np.isnan(floats)
        bad = ~missing & ~(np.abs(floats) < 2**62)
        numbers = np.where(missing | bad, 0.0, floats)
    unit = np.full(len(numbers), 1 if form == "auto" else UNITS[form], np.int64)
    per = np.full(len(numbers), 1_000 if form == "ns" else 1, np.int64)
    if form == "auto":
        unit, known = unit * MICROS, np.zeros(len(numbers), bool)
        for factor, divisor in ((MICROS, 1), (1_000, 1), (1, 1), (1, 1_000)):
            # Compared as seconds in floating point: the products may be larger than int64.
            seconds = numbers.astype(np.float64) * factor / divisor / MICROS
            inside = (seconds >= EARLIEST) & (seconds < LATEST)
            unit, per = np.where(inside, factor, unit), np.where(inside, divisor, per)
            known |= inside
        dates = (numbers >= 19_000_101) & (numbers < 21_000_000)  # YYYYMMDD, and with HHMMSS
        dates |= (numbers >= 19_000_101_000_000) & (numbers < 21_000_000_000_000)
        text_dates = pa.array(np.where(dates, numbers, 0).astype(np.int64)).cast(pa.string())
        civil, matched = _civil(text_dates, _DIGITS, "UTC") if dates.any() else (numbers, dates)
    large = np.abs(numbers.astype(np.float64)) * unit / per >= 2**62
    micros = np.where(large, 0, numbers)
    micros = (micros * unit // per).astype(np.int64) if micros.dtype.kind == "i" else np.floor(micros * unit / per)
    micros = np.where(large, 2**62, micros.astype(np.int64))
    if form == "auto" and dates.any():
        micros = np.where(dates & matched, civil, micros)
    return Parsed(micros, missing, bad)


def _civil(text: pa.Array, layout: str, timezone: str) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds of texts that match `layout` and are real moments, and which these are."""
    matched = pc.extract_regex(text, layout)
    ok = ~_nulls(matched)
    if not ok.any():
        return np.zeros(len(text), np.int64), ok

    def part(name: str, default: int = 0) -> np.ndarray:
        values = pc.struct_field(matched, name)
        values = pc.if_else(pc.equal(values, ""), None, values)
        return pc.fill_null(values.cast(pa.int64()), default).to_numpy(zero_copy_only=False)

    year, month, day = part("year", 1970), part("month", 1), part("day", 1)
    hour, minute, second = part("hour"), part("minute"), part("second")
    fraction = pc.utf8_slice_codeunits(
        pc.utf8_rpad(pc.fill_null(pc.struct_field(matched, "fraction"), ""), 6, "0"), 0, 6
    )
    micros = fraction.cast(pa.int64()).to_numpy(zero_copy_only=False)
    ok = ok & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (hour <= 24) & (minute <= 59) & (second <= 60)
    ok &= (hour < 24) | ((minute == 0) & (second == 0))
    months = np.where(ok, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + (np.where(ok, day, 1) - 1)
    ok &= dates.astype("datetime64[M]") == months  # the 31st of April is none
    seconds = dates.astype(np.int64) * 86_400 + hour * 3_600 + minute * 60 + second
    found = seconds * MICROS + micros
    zone = pc.fill_null(pc.struct_field(matched, "zone"), "")
    named = pc.utf8_lower(zone)
    offset = pc.extract_regex(zone, r"^(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?$")
    has_offset = ~_nulls(offset)
    if has_offset.any():
        hours, minutes = (
            pc.fill_null(pc.if_else(pc.equal(values, ""), None, values).cast(pa.int64()), 0).to_numpy(
                zero_copy_only=False
            )
            for values in (pc.struct_field(offset, "hours"), pc.struct_field(offset, "minutes"))
        )
        ok &= (hours <= 18) & (minutes <= 59)
        sign = np.where(_true(pc.equal(pc.struct_field(offset, "sign"), "-")), -1, 1)
        found = found - np.where(has_offset, sign * (hours * 3_600 + minutes * 60) * MICROS, 0)
    local = ok & ~has_offset & ~_true(pc.is_in(named, pa.array(["z", "utc", "gmt"])))
    if timezone != "UTC" and local.any():
        found = np.where(local, _to_utc(found, timezone), found)
    return np.where(ok, found, 0), ok


def _declared_times(text: Parsed, form: str, timezone: str) -> Parsed:
    encoded = text.values.dictionary_encode()
    zone = ZoneInfo(timezone)
    distinct, ok = np.zeros(len(encoded.dictionary) + 1, np.int64), np.zeros(len(encoded.dictionary) + 1, bool)
    for index, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            moment = datetime.strptime(value, form)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
            distinct[index], ok[index] = round(moment.timestamp() * MICROS), True
        except (ValueError, OverflowError):
            continue
    rows = pc.fill_null(encoded.indices, len(ok) - 1).to_numpy(zero_copy_only=False)
    return Parsed(distinct[rows], text.missing, ~text.missing & ~ok[rows])


def _to_utc(micros: np.ndarray, timezone: str) -> np.ndarray:
    """Microseconds of wall clocks in `timezone` as microseconds since 1970."""
    if timezone == "UTC" or not len(micros):
        return micros
    hours, rows = np.unique(micros // (900 * MICROS), return_inverse=True)  # offsets change at quarters of an hour
    shifts = np.empty(len(hours), np.int64)
    zone = ZoneInfo(timezone)
    for index, hour in enumerate(hours):
        seconds = int(hour) * 900
        if not 0 <= seconds < 2 * LATEST:
            shifts[index] = 0
            continue
        offset = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).replace(tzinfo=zone).utcoffset()
        shifts[index] = 0 if offset is None else int(offset.total_seconds()) * MICROS
    found: np.ndarray = micros - shifts[rows]
    return found


def parse_integers(values: pa.Array) -> Parsed:
    """Whole numbers, int64 [n]: integers, floats without a fraction, booleans, and these in text (`true`, `no`)."""
    kind = values.type
    if pa.types.is_boolean(kind):
        return Parsed(_filled(values.cast(pa.int64())), _nulls(values), np.zeros(len(values), bool))
    if pa.types.is_integer(kind):
        wide = kind == pa.uint64()
        bad = _true(pc.greater(values, pa.scalar(2**63 - 1, pa.uint64()))) if wide else np.zeros(len(values), bool)
        return Parsed(_filled(values.cast(pa.int64(), safe=False)), _nulls(values), bad)
    if pa.types.is_floating(kind):
        numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        whole = np.isfinite(numbers) & (np.floor(numbers) == numbers) & (np.abs(numbers) < 2**53)
        return Parsed(np.where(whole, numbers, 0).astype(np.int64), missing, ~missing & ~whole)
    text = parse_text(values)
    lower = pc.utf8_lower(text.values)
    lower = pc.if_else(pc.is_in(lower, pa.array(YES)), "1", lower)
    lower = pc.if_else(pc.is_in(lower, pa.array(NO)), "0", lower)
    whole = _true(pc.match_substring_regex(lower, r"^[+-]?\d{1,18}(\.0*)?$"))
    digits = pc.replace_substring_regex(lower, r"^\+|\.0*$", "")
    numbers = _filled(pc.if_else(pa.array(whole), digits, None).cast(pa.int64()))
    return Parsed(numbers, text.missing, ~text.missing & ~whole)


def parse_numbers(values: pa.Array, decimal: str = ".") -> Parsed:
    """Numbers as float64 [n], with signs of money and of thousands: `1.299,00 €` for a decimal comma.

    Example:
        >>> import pyarrow as pa
        >>> from components.contract.values import parse_numbers
        >>> parse_numbers(pa.array(["1.299,00 €", "34,99"]), ",").values.tolist()
        [1299.0, 34.99]
    """
    kind = values.type
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        values = values.cast(pa.int64()) if pa.types.is_boolean(kind) else values
        numbers = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        return Parsed(np.where(np.isfinite(numbers), numbers, 0.0), missing, np.isinf(numbers))
    text = parse_text(values)
    thousands = "." if decimal == "," else ","
    plain = pc.replace_substring_regex(text.values, rf"^{_MONEY}[\p{{Z}}\s]*|[\p{{Z}}\s]*({_MONEY}|%)$", "")
    marks = rf"(\d)[{thousands}'’\p{{Z}}](\d{{3}})"
    for _ in range(3):  # neighbours overlap: 1.234.567
        plain = pc.replace_substring_regex(plain, marks + r"(\D|$)", r"\1\2\3")
    plain = pc.replace_substring(plain, decimal, ".") if decimal == "," else plain
    ok = _true(pc.match_substring_regex(plain, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$"))
    numbers = _filled(pc.if_else(pa.array(ok), pc.replace_substring_regex(plain, r"^\+", ""), None).cast(pa.float64()))
    ok &= np.isfinite(numbers)
    return Parsed(np.where(ok, numbers, 0.0), text.missing, ~text.missing & ~ok)


_BLOCK = re.compile(r"(?i)</?(p|div|br|li|ul|ol|tr|td|th|h[1-6]|table|section)\b[^<>]*>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_DROPPED = re.compile(r"(?i)<(?:(!--)|(script|style|head)\b)")


def strip_html(values: pa.Array) -> pa.Array:
    """Texts without tags, entities read, blanks joined."""
    encoded = values.dictionary_encode()
    plain = [_strip_html(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(plain, pa.string()).take(encoded.indices)


def _strip_html(value: str | None) -> str | None:
    if value is None:
        return None
    if "<" in value:
        value = _TAG.sub("", _BLOCK.sub(" ", _without_hidden(value)))
    value = " ".join(html.unescape(value).split())
    return value or None


def _without_hidden(value: str) -> str:
    """Without comments, scripts and styles; one that is never closed hides the rest.  Time grows with the length."""
    parts, begin, lower = [], 0, value.lower()
    while found := _DROPPED.search(value, begin):
        parts.append(value[begin : found.start()])
        close = "-->" if found[1] else f"</{found[2].lower()}"
        end = lower.find(close, found.end())
        end = value.find(">", end) if end >= 0 else -1
        if end < 0:
            return " ".join(parts)
        begin = end + 1
    return " ".join([*parts, value[begin:]])


def always_clicked(values: pa.Array, clicked: np.ndarray) -> str | None:
    """A value that nearly all rows with it were clicked, and that a fifth of the clicks have; None where there is none.

    Such a value is known only after the click.

    Args:
        values: Text [n].
        clicked: 0 or 1, [n].
    """
    if not 0 < clicked.mean() < MOST_CLICKED:
        return None
    encoded = values.dictionary_encode()
    codes = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    shown, clicks = (np.bincount(codes, weights, len(encoded.dictionary) + 1)[:-1] for weights in (None, clicked))
    found = np.flatnonzero((clicks >= SURE * shown) & (clicks >= max(FEWEST_CLICKS, 0.2 * clicked.sum())))
    return str(encoded.dictionary[int(found[0])]) if len(found) else None


def parse_lists(values: pa.Array, separator: str = "") -> Parsed:
    """Lists of text, or texts of several values, as texts divided by `|`; empty and repeated values are left out."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind):
        values = pa.array(values.to_pylist(), pa.list_(kind.value_type))
        kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = values.offsets.to_numpy()
        inner = parse_text(values.values)
        flat, bad_inner = inner.values.to_pylist(), inner.bad
        valid = ~_nulls(values)
        rows = [flat[offsets[i] : offsets[i + 1]] if valid[i] else [] for i in range(len(values))]
        bad = np.array(
            [valid[i] and bool(bad_inner[offsets[i] : offsets[i + 1]].any()) for i in range(len(values))], bool
        )
    else:
        text = parse_text(values)
        if separator in ("", "|"):
            needless = pc.match_substring_regex(text.values, r"^\||\|\||\|$|\s\||\|\s")
            if not _true(needless).any():
                return text
        encoded = text.values.dictionary_encode()
        parts = [value.split(separator or "|") for value in encoded.dictionary.to_pylist()]
        joined = pa.array([_join(one) for one in parts], pa.string()).take(encoded.indices)
        return Parsed(joined, _nulls(joined) & ~text.bad, text.bad)
    joined = pa.array([_join(one) for one in rows], pa.string())
    return Parsed(joined, _nulls(joined) & ~bad, bad)


def parse_embeddings(values: pa.Array, dim: int, separator: str = "") -> Parsed:
    """Vectors as float32 [n, dim]; zeros for one that is missing, of another length, or with a number that is none.

    Args:
        values: Lists of numbers, or text such as `[0.1, 0.2]`, `[0.1 0.2]` or `0.1;0.2`.
        dim: Numbers of a vector.
        separator: Between the numbers in text; blanks, commas and semicolons if empty.
    """
    kind = values.type
    between = re.compile(re.escape(separator) if separator.strip() else r"[\s,;]+")
    if is_list(kind):
        missing, rows = _nulls(values), values.to_pylist()
    elif pa.types.is_nested(kind):
        missing = _nulls(values)
        return Parsed(np.zeros((len(values), dim), np.float32), missing, ~missing)
    else:
        text = parse_text(values)
        missing = text.missing
        rows = [between.split((one or "").strip("[]() ,;\n")) for one in text.values.to_pylist()]
    found, bad = np.zeros((len(values), dim), np.float32), np.zeros(len(values), bool)
    for row, numbers in enumerate(rows):
        if missing[row]:
            continue
        try:
            vector = np.array(numbers, np.float64)
        except (TypeError, ValueError, OverflowError):
            vector = np.zeros(0, np.float32)
        bad[row] = vector.shape != (dim,) or not (np.abs(vector) <= np.finfo(np.float32).max).all()
        if not bad[row]:
            found[row] = vector + 0.0  # no negative zero, which is another content
    return Parsed(found, missing, bad)


def _join(parts: list[str | None]) -> str | None:
    kept = dict.fromkeys(part.strip().replace("|", "/") for part in parts if part and part.strip())
    return "|".join(kept) or None


def _decode(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Bytes as text, and which of them are no UTF-8."""
    try:
        text = values.cast(pa.large_binary()).cast(pa.large_string()).cast(pa.string())
        return text, np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        read = [None if value is None else decode_utf8(value) for value in raw]
        bad = np.array([own is None and value is not None for own, value in zip(read, raw, strict=True)], bool)
        return pa.array(read, pa.string()), bad


def is_binary(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of any kind that has offsets or a fixed size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def decode_utf8(value: bytes) -> str | None:
    """The text of UTF-8 bytes; None where they are not valid."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _nulls(values: pa.Array) -> np.ndarray:
    found: np.ndarray = values.is_null().to_numpy(zero_copy_only=False)
    return found


def _true(values: pa.Array) -> np.ndarray:
    found: np.ndarray = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return found


def _filled(values: pa.Array) -> np.ndarray:
    found: np.ndarray = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
    return found
