"""Passes over a history against NumPy, with their gradients; softmax, means and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_keras.ops.fused_attention import attention_scores, weighted_sum
from mim_keras.ops.masking import masked_means, masked_softmax
from mim_keras.ops.normalization import l2_normalize, l2_normalize_groups
from tests.mim_keras.backend import compiled, gradients, numbers

pytestmark = pytest.mark.any_backend
B, HEADS, L, D = 3, 2, 5, 4
seeds = st.integers(0, 2**31)
often = settings(max_examples=25, deadline=None)


class Holder(keras.layers.Layer):
    """Holds what a function is differentiated by."""

    def __init__(self, *values: np.ndarray) -> None:
        super().__init__()
        for index, value in enumerate(values):
            initial = lambda shape, dtype, v=value: keras.ops.convert_to_tensor(v)  # noqa: E731
            self.add_weight(shape=value.shape, initializer=initial, name=f"v{index}")

    def through(self, function: Callable[..., Any]) -> Any:
        return function(*(1.0 * keras.ops.convert_to_tensor(variable) for variable in self.trainable_variables))


@pytest.mark.parametrize("histories", [B, 1])
@pytest.mark.parametrize("function", [attention_scores, weighted_sum])
def test_a_pass_over_a_history_and_its_gradients(
    rng: np.random.Generator, function: Callable[..., Any], histories: int
) -> None:
    left_shape, equation = ((B, HEADS, D), "bhd,bld->bhl")
    if function is weighted_sum:
        left_shape, equation = ((B, HEADS, L), "bhl,bld->bhd")
    left, history = (rng.normal(size=shape).astype("float32") for shape in (left_shape, (histories, L, D)))
    each = np.broadcast_to(history, (B, L, D))
    expected = np.einsum(equation, left, each)
    np.testing.assert_allclose(numbers(function(left, history)), expected, atol=1e-5)
    by_xla = compiled(lambda left, history: function(left, history), left=left, history=history)
    np.testing.assert_allclose(numbers(by_xla), expected, atol=1e-5)
    upstream = rng.normal(size=expected.shape).astype("float32")
    holder = Holder(left, history)
    found = gradients(holder, lambda: keras.ops.sum(holder.through(function) * upstream))
    inputs, output = equation.split("->")
    first, second = inputs.split(",")
    np.testing.assert_allclose(found[0], np.einsum(f"{output},{second}->{first}", upstream, each), atol=1e-5)
    by_history = np.einsum(f"{output},{first}->{second}", upstream, left)
    by_history = by_history if histories == B else by_history.sum(0, keepdims=True)
    np.testing.assert_allclose(found[1], by_history, atol=1e-5)


@given(seeds, st.floats(-50, 50))
@often
def test_a_softmax_is_of_what_is_not_masked_and_of_differences_alone(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits, mask = rng.normal(scale=3, size=(B, L)).astype("float32"), rng.random((B, L)) < rng.random()
    found = numbers(masked_softmax(logits, mask))
    np.testing.assert_allclose(found.sum(axis=1), mask.any(axis=1), atol=1e-5)
    assert not found[~mask].any()
    np.testing.assert_allclose(numbers(masked_softmax(logits + np.float32(shift), mask)), found, atol=1e-4)


@given(seeds)
@often
def test_means_are_of_what_is_not_masked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history, masks = rng.normal(size=(B, L, D)).astype("float32"), rng.random((2, B, L)) < 0.5
    for mask, found in zip(masks, masked_means(list(masks), history), strict=True):
        for row in range(B):
            expected = history[row][mask[row]].mean(axis=0) if mask[row].any() else np.zeros(D)
            np.testing.assert_allclose(numbers(found)[row], expected, atol=1e-5)


@given(seeds, st.floats(1e-3, 1e3))
@often
def test_the_norm_of_a_vector_never_counts(seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(B, 6)).astype("float32")
    found = numbers(l2_normalize(x))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(numbers(l2_normalize(x * np.float32(scale))), found, atol=1e-4)
    each = np.repeat(np.float32([scale, 1 / scale]), [2, 4])  # another norm for each group
    groups = numbers(l2_normalize_groups(x, (2, 4)))
    np.testing.assert_allclose(numbers(l2_normalize_groups(x * each, (2, 4))), groups, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(groups[:, :2], axis=1), 1, atol=1e-4)
