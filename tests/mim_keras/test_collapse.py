"""The alarm that stops a training whose vectors become one."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.metrics.retrieval import effective_rank
from mim_keras.training.collapse import CollapseAlarm, CollapseError

pytestmark = pytest.mark.any_backend


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_effective_rank_by_hand(rng: np.random.Generator) -> None:
    corners = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(corners) == pytest.approx(4)
    assert effective_rank(np.outer([1.0, -1.0, 2.0], [3.0, 4.0])) == pytest.approx(1)
    assert effective_rank(np.ones((5, 3))) == 1
    # two directions, one three times as strong: entropy of (3/4, 1/4)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])) == pytest.approx(np.exp(entropy))


def test_what_tells_items_apart_goes_on(rng: np.random.Generator) -> None:
    logs: dict[str, float] = {}
    CollapseAlarm(lambda: unit(rng.normal(size=(5000, 8))), 0.9).on_epoch_end(0, logs)
    assert abs(logs["mean_cosine"]) < 0.05
    assert 7 < logs["effective_rank"] <= 8


def test_collapsed_vectors_stop_the_training(rng: np.random.Generator) -> None:
    vectors = unit(np.ones((50, 8)) + 0.05 * rng.normal(size=(50, 8)))
    vectors[0] = 0  # an item without content tells nothing
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(CollapseError, match=r"after epoch 1 it is 0\.99\d, in .* Lower csft.training.learning_rate"):
        model.fit(np.ones((4, 2)), np.ones(4), epochs=3, verbose=0, callbacks=[CollapseAlarm(lambda: vectors, 0.9)])
    CollapseAlarm(lambda: vectors, 1.0).on_epoch_end(0, {})
