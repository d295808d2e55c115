"""Vectors of length one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def normalise(x: Any) -> Any:
    """Scales vectors [..., d] to length one; a zero vector stays zero.

    Worked out in float32, for squares and their inverses soon leave what float16 holds.
    """
    wide = ops.cast(x, "float32")
    squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    return ops.cast(wide * ops.rsqrt(ops.maximum(squares, 1e-12)), x.dtype)


def normalise_blocks(x: Any, widths: Sequence[int]) -> Any:
    """Scales each block of columns of [..., sum of widths] to length one by itself."""
    if len(widths) == 1:
        return normalise(x)
    parts = ops.split(x, np.cumsum(widths)[:-1].tolist(), axis=-1)
    return ops.concatenate([normalise(part) for part in parts], axis=-1)
