"""Vectors of length one."""

from __future__ import annotations

from typing import Any

from keras import ops


def normalise(x: Any) -> Any:
    """Scales vectors [..., d] to length one; a zero vector stays zero."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))
