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
    before = iter([unit(rng.normal(size=(50, 8)))])
    callback = TerminateOnCollapse(lambda: next(before, embeddings), 0.9)
    with pytest.raises(CollapseError, match=message):
        model.fit(np.ones((4, 2)), np.ones(4), epochs=3, verbose=0, callbacks=[callback])
    TerminateOnCollapse(lambda: embeddings, 1.0).on_epoch_end(0, {})


@pytest.mark.parametrize(("first", "then", "collapsed"), [(0.95, 0.97, False), (0.95, 0.98, True), (0.5, 0.89, False)])
def test_items_that_are_alike_from_the_first_have_not_collapsed(first: float, then: float, collapsed: bool) -> None:
    def alike(cosine: float) -> np.ndarray:
        """Embeddings of which any two have this cosine."""
        return np.concatenate([np.full((9, 1), np.sqrt(cosine)), np.sqrt(1 - cosine) * np.eye(9)], axis=1)

    found = iter([alike(first), alike(then)])
    callback = TerminateOnCollapse(lambda: next(found), 0.9)
    callback.on_train_begin()
    if collapsed:
        with pytest.raises(CollapseError):
            callback.on_epoch_end(0, {})
    else:
        callback.on_epoch_end(0, {})


def test_embeddings_that_are_not_numbers_are_a_collapse() -> None:
    state = {"embeddings": np.eye(4, dtype="float32")}
    callback = TerminateOnCollapse(lambda: state["embeddings"], 0.9)
    state["embeddings"] = np.full((20, 4), np.nan, "float32")
    with pytest.raises(CollapseError, match="received nan after epoch 1"):
        callback.on_epoch_end(0, {})
