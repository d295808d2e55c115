"""The three stages in half precision: missing content and empty histories make no number infinite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.mim_keras import tiny
from tests.mim_keras.backend import HALVES, half_precision, numbers
from tests.mim_keras.cases import CATEGORIES

pytestmark = [pytest.mark.any_backend, pytest.mark.parametrize("kind", HALVES)]
BATCH = 16


def check_learns(make: Callable[[], keras.Model], x: Any, y: Any, kind: str) -> keras.Model:
    """Trains for longer than a loss scale that starts too high skips steps; all stays finite, and weights change."""
    with half_precision(kind):
        model = make()
        model.compile(optimizer=keras.optimizers.Adam(1e-3))
        model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
        before = [numbers(variable) for variable in model.trainable_variables]
        losses = model.fit(x, y, batch_size=BATCH, epochs=20, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    after = [numbers(variable) for variable in model.trainable_variables]
    assert all(np.all(np.isfinite(values)) for values in after)
    assert np.mean([np.any(one != other) for one, other in zip(before, after, strict=True)]) > 0.5
    return model


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_stage_1(kind: str, loss: str) -> None:
    if (keras.backend.backend(), kind) == ("jax", "float16"):
        pytest.skip("JAX has no product of float16 on a CPU that Keras' attention asks for")
    model = check_learns(lambda: tiny.alignment(loss=loss), tiny.encoder_inputs(), CATEGORIES, kind)
    joint = numbers(keras.ops.cast(model(tiny.encoder_inputs())["joint"], "float32"))
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), np.arange(tiny.CONTENTS) != 2, atol=0.02)


def test_stage_2(kind: str) -> None:
    if (keras.backend.backend(), kind) == ("jax", "float16"):
        pytest.skip("JAX has no product of float16 on a CPU that Keras' attention asks for")
    terms = [{"negatives": ["in_batch", "queue", "hard"]}, {"query": "image", "item": "text", "prefix_dim": 8}]
    check_learns(lambda: tiny.csft(terms=terms, queue_size=16), tiny.pairs(), None, kind)


def test_stage_3(kind: str) -> None:
    x = tiny.ranker_inputs(BATCH)
    assert not x["history_rows"][0].any()
    check_learns(lambda: tiny.ranker(search_top_k=3), x, (x["item_row"] % 2).astype("float32"), kind)
