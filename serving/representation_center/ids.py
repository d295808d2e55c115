"""Ids as text: one rule for tables, events and requests."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
# As Python and C write floats, and as Java does.
_SCIENTIFIC = re.compile(r"([+-]?\d+)(?:\.(\d+))?e\+(\d{1,3})|([+-]?\d)\.(\d+)E\+?(\d{1,3})")
EXACT = 2**53  # below it a float holds each whole number


class IdError(ValueError):
    """A value cannot be an id.  The message says why."""


def normalize_id(value: object) -> str:
    """An id as text.

    pandas makes floats of integers where one is missing, and writes them as `12.0` or `6.8e+12`.  They are read as the
    integers that they were.  Any other text stays as it is, without blanks around it.

    Args:
        value: Text, an integer of any size, or a float without a fraction; NumPy's too.

    Raises:
        IdError: a fraction, a float that is too large to be exact, or another type.

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
        return _exact(int(number), value)
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    raise IdError(f"an id is text or a whole number; received {value!r}")


def _from_text(value: str) -> str:
    if whole := _WHOLE.fullmatch(value):  # all digits are there, as of a decimal
        return whole[1]
    if written := _SCIENTIFIC.fullmatch(value):
        first, digits, exponent = written[1] or written[4], written[2] or written[5] or "", written[3] or written[6]
        shift = int(exponent)
        if digits[shift:].strip("0"):
            raise IdError(f"an id is no fraction; received {value!r}")
        return _exact(int(first + digits[:shift].ljust(shift, "0")), value)
    return value


def _exact(number: int, value: object) -> str:
    if abs(number) >= EXACT:
        raise IdError(f"a float of 2^53 or more has lost digits, and is no id; received {value!r}. Export ids as text")
    return str(number)
