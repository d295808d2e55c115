"""Items that are held to be launched only when the test begins: how a ranker does on what it has never seen."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa


def launched_late(item_id: pa.Array, one_in: int) -> np.ndarray:
    """True for about one item in `one_in`, always the same ones, bool [n]; for none where `one_in` is 0.

    An id is hashed as text, so that neither the order nor the parity of ids has a part in it.

    Args:
        item_id: string or binary [n].
        one_in: How many items there are for each late one.
    """
    if not one_in:
        return np.zeros(len(item_id), bool)
    encoded = item_id.dictionary_encode()
    distinct = encoded.dictionary.cast(pa.binary()).to_pylist()
    late = np.array([_hash(item_id) % one_in == 0 for item_id in distinct], bool)
    found: np.ndarray = late[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _hash(item_id: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(item_id, digest_size=8).digest(), "little")
