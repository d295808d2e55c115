"""Fusion by hand, and what an adapter starts as."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import GatedFusion, ResidualAdapter
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import FUSION, uniform

pytestmark = pytest.mark.any_backend


def test_by_hand() -> None:
    layer = GatedFusion()
    found = numbers(layer(**FUSION))
    gate = numbers(layer.gate.kernel)[:, 0]
    image, text = np.exp(FUSION["image"][0] @ gate), np.exp(FUSION["text"][0] @ gate)
    joint = (image * FUSION["image"][0] + text * FUSION["text"][0]) / (image + text)
    np.testing.assert_allclose(found[0], joint / np.linalg.norm(joint), rtol=1e-4)
    for row, name in ((1, "text"), (2, "image")):  # of what an item lacks nothing counts
        np.testing.assert_allclose(found[row], FUSION[name][row] / np.linalg.norm(FUSION[name][row]), rtol=1e-4)
    neither = {**FUSION, "has_image": np.zeros(3, "float32"), "has_text": np.zeros(3, "float32")}
    assert not numbers(layer(**neither)).any()


def test_an_adapter_starts_as_the_identity() -> None:
    view, layer = uniform(3, 6), ResidualAdapter()
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(layer(view)), view, atol=1e-6)
    layer.kernel.assign(np.eye(6)[::-1])
    expected = view + view[:, ::-1]
    np.testing.assert_allclose(numbers(layer(view)), expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-5)
