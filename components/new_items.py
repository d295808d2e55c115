"""Items that are held to be launched only when the test begins: how a ranker does on what it has never seen."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa

_KNUTH, _WORD = 2_654_435_761, 2**32


def launched_late(item_id: pa.Array, one_in: int) -> np.ndarray:
    """True for about one item in `one_in`, always the same ones, bool [n]; for none where `one_in` is 0.

    An id that is a number is hashed by Knuth's multiplication, another one by its CRC-32 and then so: no order of the
    ids has a part in it.

    Args:
        item_id: string or binary [n].
        one_in: How many items there are for each late one.
    """
    if not one_in:
        return np.zeros(len(item_id), bool)
    encoded = item_id.dictionary_encode()
    numbers = map(_number, encoded.dictionary.cast(pa.binary()).to_pylist())
    late = np.array([number * _KNUTH % _WORD % one_in == 0 for number in numbers], bool)
    found: np.ndarray = late[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _number(item_id: bytes) -> int:
    return int(item_id) if item_id.isdigit() else zlib.crc32(item_id)
