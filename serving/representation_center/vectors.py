"""How vectors are kept, in snapshots and in every store."""

from __future__ import annotations

import numpy as np

INT8_SCALE = 127.0
DTYPES = ("int8", "float16")


def store_vectors(vectors: np.ndarray, dtype: str = "int8") -> np.ndarray:
    """Vectors of length one, float [n, d], as they are kept: int8 at scale 1/127, or float16; [n, d]."""
    if dtype == "int8":
        return np.clip(np.rint(vectors * INT8_SCALE), -127, 127).astype(np.int8)
    return vectors.astype(np.float16)


def restore_vectors(stored: np.ndarray) -> np.ndarray:
    """What `store_vectors` made, as float32 [n, d]."""
    if stored.dtype == np.int8:
        return stored * np.float32(1 / INT8_SCALE)
    return stored.astype(np.float32)
