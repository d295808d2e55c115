"""The head of several labels against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import MultiGateHead
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import uniform

pytestmark = pytest.mark.any_backend


def test_against_numpy() -> None:
    x, layer = uniform(3, 6), MultiGateHead(2, 4, 1, (5, 7), projection_dim=4)
    layer(x)
    for number, variable in enumerate(layer.weights):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape))
    cross = layer.crosses[0]
    crossed = (
        x * (x @ numbers(cross.down_proj_dense.kernel) @ numbers(cross.dense.kernel) + numbers(cross.dense.bias)) + x
    )
    gates = np.einsum("bi,ike->bke", x, numbers(layer.gates.kernel))
    gates = np.exp(gates) / np.exp(gates).sum(axis=-1, keepdims=True)
    expected = np.zeros((3, 2))
    for label in range(2):
        mixed = np.zeros((3, 7))
        for expert in range(4):
            hidden = x
            for dense, first in zip(layer.expert_layers, (True, False), strict=True):
                kernel = numbers(dense.kernel)
                kernel = kernel[:, expert] if first else kernel[expert]
                hidden = np.maximum(hidden @ kernel + numbers(dense.bias)[expert], 0)
            mixed += gates[:, label, expert, None] * hidden
        kernel = numbers(layer.logits.kernel)[label]
        expected[:, label] = np.concatenate([crossed, mixed], axis=1) @ kernel + numbers(layer.logits.bias)[label]
    np.testing.assert_allclose(numbers(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_an_expert_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="hidden must have at least one layer"):
        MultiGateHead(2, 4, 1, ())
