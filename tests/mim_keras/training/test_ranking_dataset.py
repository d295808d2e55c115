"""The order of ranking batches, id dropout, and what a model sees of a batch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mim_keras.config import TrainingConfig
from mim_keras.training.ranking_dataset import Predictor, ranking_dataset, sample_id_dropout
from mim_keras.training.run_training import TrainingRun, run_training
from mim_keras.training.strategy import make_strategy
from tests.mim_keras import tiny

ROWS, BATCH = 50, 8


def rows_of(batches: Any, epoch: int) -> np.ndarray:
    batches.set_epoch(epoch)
    found = list(batches.dataset)
    for inputs, label in found:
        np.testing.assert_array_equal(inputs["item_row"] % 2, label)
        assert inputs["drop_id"].shape == (BATCH,)
    return np.concatenate([inputs["item_row"] for inputs, _ in found])


def test_each_epoch_has_its_own_order_and_always_the_same() -> None:
    item = np.arange(ROWS, dtype=np.int32)
    batches = ranking_dataset({"item_row": item}, (item % 2).astype("float32"), BATCH, seed=3, id_dropout=0.5)
    first, second = rows_of(batches, 0), rows_of(batches, 1)
    assert batches.steps == ROWS // BATCH
    assert len(set(first)) == len(first) == batches.steps * BATCH
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(rows_of(batches, 0), first)


def test_a_share_of_ids_is_masked() -> None:
    draws = [sample_id_dropout({"item_row": tf.zeros(20_000)}, 0.3, [1, s])["drop_id"].numpy() for s in (2, 2, 3)]
    assert 0.28 < draws[0].mean() < 0.32
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_a_model_on_one_device_sees_the_batch_size() -> None:
    sizes = set()

    class Seeing(keras.Model):
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
        model({"value": value[:BATCH]})
        model.compile(optimizer="sgd", loss="mse")
    run_training(model, ranking_dataset({"value": value}, value, BATCH, seed=1), TrainingRun("seeing", 1))
    assert sizes == {BATCH}


def test_predictions_are_of_the_model_as_it_is() -> None:
    model, x = tiny.ranker(), tiny.ranker_inputs()
    predict, halves = Predictor(model), [{n: v[part] for n, v in x.items()} for part in (slice(4), slice(4, None))]
    np.testing.assert_allclose(predict(halves), model(x)["ctr"][:, 0], atol=1e-6)
    model.head.logit.bias.assign([1.0])
    np.testing.assert_allclose(predict(halves), model(x)["ctr"][:, 0], atol=1e-6)
