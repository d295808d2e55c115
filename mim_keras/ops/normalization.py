"""L2 normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def l2_normalize(x: Any) -> Any:
    """L2-normalises embeddings [..., d]; a zero embedding stays zero.

    Computed in float32, since squares and their inverses overflow float16.

    Example:
        >>> import numpy as np
        >>> from mim_keras.ops.normalization import l2_normalize
        >>> np.asarray(l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], "float32"))).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x32 = ops.cast(x, "float32")
    squared_norm = ops.sum(ops.square(x32), axis=-1, keepdims=True)
    return ops.cast(x32 * ops.rsqrt(ops.maximum(squared_norm, 1e-12)), x.dtype)


def l2_normalize_groups(x: Any, dims: Sequence[int]) -> Any:
    """L2-normalises each group of columns of x [..., sum of dims] on its own."""
    if len(dims) == 1:
        return l2_normalize(x)
    groups = ops.split(x, np.cumsum(dims)[:-1].tolist(), axis=-1)
    return ops.concatenate([l2_normalize(group) for group in groups], axis=-1)
