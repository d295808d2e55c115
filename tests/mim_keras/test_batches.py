"""The order of ranking batches, and what a model sees of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mim_keras.config import TrainingConfig
from mim_keras.training.batches import ranking_batches
from mim_keras.training.fit import fit
from mim_keras.training.stage_model import StageModel
from mim_keras.training.strategy import make_strategy

ROWS, BATCH = 50, 8


def rows_of(epochs: Any, epoch: int) -> np.ndarray:
    epochs.begin(epoch)
    batches = list(epochs.dataset)
    for inputs, label in batches:
        np.testing.assert_array_equal(inputs["item_row"] % 2, label)
        assert inputs["hide_id"].shape == (BATCH,)
    return np.concatenate([inputs["item_row"] for inputs, _ in batches])


def test_each_epoch_has_an_order_of_its_own_and_always_the_same() -> None:
    item = np.arange(ROWS, dtype=np.int32)
    epochs = ranking_batches({"item_row": item}, (item % 2).astype("float32"), BATCH, seed=3, id_dropout=0.5)
    first, second = rows_of(epochs, 0), rows_of(epochs, 1)
    assert epochs.steps == ROWS // BATCH
    assert len(set(first)) == len(first) == epochs.steps * BATCH
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(rows_of(epochs, 0), first)


def test_a_model_on_one_device_sees_how_large_a_batch_is() -> None:
    sizes = set()

    class Seeing(StageModel):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            sizes.add(x["value"].shape[0])
            return self.out(x["value"][:, None])

    value = np.arange(ROWS, dtype=np.float32)
    training = TrainingConfig(epochs=1, batch_size=BATCH)
    with make_strategy(training).scope():
        model = Seeing()
        model.compile(optimizer="sgd", loss="mse")
    fit("seeing", model, ranking_batches({"value": value}, value, BATCH, seed=1), training)
    assert sizes == {BATCH}
