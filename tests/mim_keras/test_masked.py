"""Passes over a history's clicks: their values and gradients against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.interest.masked import products, sums
from tests.mim_keras.backend import compiled, gradients, numbers

pytestmark = pytest.mark.any_backend
B, HEADS, L, D = 3, 2, 5, 4


class Pair(keras.layers.Layer):
    """Holds what a function is differentiated by."""

    def __init__(self, *values: np.ndarray) -> None:
        super().__init__()
        for place, value in enumerate(values):
            self.add_weight(
                shape=value.shape,
                initializer=lambda shape, dtype, v=value: keras.ops.convert_to_tensor(v),
                name=f"v{place}",
            )

    def through(self, function: Callable[..., Any]) -> Any:
        return function(*(1.0 * keras.ops.convert_to_tensor(variable) for variable in self.trainable_variables))


@pytest.mark.parametrize("histories", [B, 1])
def test_products_and_their_gradients(rng: np.random.Generator, histories: int) -> None:
    queries, clicks = (
        rng.normal(size=(B, HEADS, D)).astype("float32"),
        rng.normal(size=(histories, L, D)).astype("float32"),
    )
    towards = rng.normal(size=(B, HEADS, L)).astype("float32")
    each = np.broadcast_to(clicks, (B, L, D))
    expected = np.einsum("bhd,bld->bhl", queries, each)
    np.testing.assert_allclose(numbers(products(queries, clicks)), expected, atol=1e-5)
    np.testing.assert_allclose(compiled(products, queries=queries, clicks=clicks), expected, atol=1e-5)
    pair = Pair(queries, clicks)
    found = gradients(pair, lambda: keras.ops.sum(pair.through(products) * towards))
    by_click = np.einsum("bhl,bhd->bld", towards, queries)
    np.testing.assert_allclose(found[0], np.einsum("bhl,bld->bhd", towards, each), atol=1e-5)
    np.testing.assert_allclose(found[1], by_click if histories == B else by_click.sum(0, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("histories", [B, 1])
def test_sums_and_their_gradients(rng: np.random.Generator, histories: int) -> None:
    weights, clicks = (
        rng.normal(size=(B, HEADS, L)).astype("float32"),
        rng.normal(size=(histories, L, D)).astype("float32"),
    )
    towards = rng.normal(size=(B, HEADS, D)).astype("float32")
    each = np.broadcast_to(clicks, (B, L, D))
    np.testing.assert_allclose(numbers(sums(weights, clicks)), np.einsum("bhl,bld->bhd", weights, each), atol=1e-5)
    pair = Pair(weights, clicks)
    found = gradients(pair, lambda: keras.ops.sum(pair.through(sums) * towards))
    by_click = np.einsum("bhl,bhd->bld", weights, towards)
    np.testing.assert_allclose(found[0], np.einsum("bhd,bld->bhl", towards, each), atol=1e-5)
    np.testing.assert_allclose(found[1], by_click if histories == B else by_click.sum(0, keepdims=True), atol=1e-5)
