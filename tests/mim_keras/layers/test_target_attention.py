"""Target attention against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import TargetAttention
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import ATTENTION
from tests.mim_keras.layers.reference import softmax_where

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("heads", [1, 2])
def test_against_numpy(heads: int) -> None:
    layer = TargetAttention(4, heads)
    output = layer(**ATTENTION)
    target, history, mask = ATTENTION["target"], ATTENTION["history"], ATTENTION["history_mask"]
    q, k, v = (
        x @ numbers(dense.kernel)
        for x, dense in zip((target, history, history), (layer.query, layer.key, layer.value), strict=True)
    )
    parts, width = [], 4 // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = softmax_where(np.einsum("bd,bld->bl", q[:, part], k[..., part]) / np.sqrt(width), mask)
        parts.append(np.einsum("bl,bld->bd", weights, v[..., part]))
    np.testing.assert_allclose(numbers(output), np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"multiple of heads; received dim=5, heads=2\. Change"):
        TargetAttention(5, heads=2)
