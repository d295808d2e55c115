"""Modal attention against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import ModalAttention
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import MODAL
from tests.mim_keras.layers.reference import softmax_where

pytestmark = pytest.mark.any_backend


def test_against_numpy() -> None:
    layer = ModalAttention(4, temperature=0.5)
    output = layer(**MODAL)
    query, key, value = (numbers(dense.kernel) for dense in (layer.query, layer.key, layer.value))
    logits = MODAL["similarity"] / 0.5
    logits = logits + np.einsum("bd,bld->bl", MODAL["target"] @ query, MODAL["history"] @ key) / 2.0
    weights = softmax_where(logits, MODAL["history_mask"])
    values = np.concatenate([MODAL["history"], MODAL["side_features"]], axis=-1) @ value
    np.testing.assert_allclose(numbers(output), np.einsum("bl,bld->bd", weights, values), rtol=1e-4, atol=1e-5)
