"""A training whose embeddings collapse is stopped."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.metrics.collapse import effective_rank
from mim_keras.training.callbacks import CollapseError, TerminateOnCollapse

pytestmark = pytest.mark.any_backend


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_effective_rank_by_hand() -> None:
    corners = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(corners) == pytest.approx(4)
    assert effective_rank(np.outer([1.0, -1.0, 2.0], [3.0, 4.0])) == pytest.approx(1)
    assert effective_rank(np.ones((5, 3))) == 1
    # two directions, one three times as strong: entropy of (3/4, 1/4)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])) == pytest.approx(np.exp(entropy))


def test_embeddings_that_separate_items_go_on(rng: np.random.Generator) -> None:
    logs: dict[str, float] = {}
    TerminateOnCollapse(lambda: unit(rng.normal(size=(5000, 8))), 0.9).on_epoch_end(0, logs)
    assert abs(logs["mean_cosine"]) < 0.05
    assert 7 < logs["effective_rank"] <= 8


def test_collapsed_embeddings_stop_the_training(rng: np.random.Generator) -> None:
    embeddings = unit(np.ones((50, 8)) + 0.05 * rng.normal(size=(50, 8)))
    embeddings[0] = 0  # an item without content does not count
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    message = r"at or below csft\.collapse_threshold = 0\.9; received 0\.99\d after epoch 1, .* Lower csft\.training"
    callback = TerminateOnCollapse(lambda: embeddings, 0.9)
    with pytest.raises(CollapseError, match=message):
        model.fit(np.ones((4, 2)), np.ones(4), epochs=3, verbose=0, callbacks=[callback])
    TerminateOnCollapse(lambda: embeddings, 1.0).on_epoch_end(0, {})
