"""SA-TA against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import SemanticTargetAttention
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import SEMANTIC
from tests.mim_keras.layers.reference import softmax_where

pytestmark = pytest.mark.any_backend


def test_against_numpy() -> None:
    layer = SemanticTargetAttention(4, heads=2, temperature=0.1)
    layer(**SEMANTIC)
    layer.id_weight.assign([1.0, 0.5])
    layer.content_weight.assign([0.7, 1.0])
    layer.interaction_weight.assign([1.0, -0.3])
    q, k, v = (
        SEMANTIC[name] @ numbers(dense.kernel)
        for name, dense in zip(("target", "history", "history"), (layer.query, layer.key, layer.value), strict=True)
    )
    scaled, heads = SEMANTIC["similarity"] * 10, []
    for part, (b1, b2, b3) in zip((slice(0, 2), slice(2, 4)), ((1.0, 0.7, 1.0), (0.5, 1.0, -0.3)), strict=True):
        dot = np.einsum("bd,bld->bl", q[:, part], k[..., part]) / np.sqrt(2)
        weights = softmax_where(b1 * dot + b2 * scaled + b3 * dot * scaled, SEMANTIC["history_mask"])
        heads.append(np.einsum("bl,bld->bd", weights, v[..., part]))
    np.testing.assert_allclose(numbers(layer(**SEMANTIC)), np.concatenate(heads, -1), rtol=1e-4, atol=1e-4)
