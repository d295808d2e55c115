"""Ids as text: one rule for tables, events and requests."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_SCIENTIFIC = re.compile(r"([+-]?\d+)(?:\.(\d+))?e\+(\d{1,3})")


class IdError(ValueError):
    """A value cannot be an id.  The message says why."""


def normalize_id(value: object) -> str:
    """An id as text.

    pandas makes floats of integers where one is missing, and writes them as `12.0` or `6.8e+12`.  They are read as the
    integers that they were.  Any other text stays as it is, without blanks around it.

    Args:
        value: Text, an integer of any size, or a float without a fraction; NumPy's too.

    Raises:
        IdError: a fraction, or another type.

    Example:
        >>> from serving.representation_center.ids import normalize_id
        >>> normalize_id("6.806634100033e+12"), normalize_id(12.0), normalize_id("A-1")
        ('6806634100033', '12', 'A-1')
    """
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, bool):
        raise IdError(f"an id is text or a whole number; received {value!r}")
    number = getattr(value, "item", lambda: value)()  # NumPy's scalars
    if isinstance(number, float) and number.is_integer():
        return str(int(number))
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    raise IdError(f"an id is text or a whole number; received {value!r}")


def _from_text(value: str) -> str:
    if whole := _WHOLE.fullmatch(value):
        return whole[1]
    if written := _SCIENTIFIC.fullmatch(value):
        digits, shift = written[2] or "", int(written[3])
        if digits[shift:].strip("0"):
            raise IdError(f"an id is no fraction; received {value!r}")
        return str(int(written[1] + digits[:shift].ljust(shift, "0")))
    return value
