"""Steps that are compiled as one loop train as single steps do, and none is lost."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import TrainingConfig
from mim_keras.models.base import StageModel
from mim_keras.training import compiled_steps
from mim_keras.training.compiled_steps import BatchGroup, group_batches, steps_per_element
from mim_keras.training.epoch_dataset import EpochDataset
from mim_keras.training.ranking_dataset import ranking_dataset
from mim_keras.training.run_training import TrainingRun, compile_model, run_training
from tests.mim_keras import tiny
from tests.mim_keras.backend import half_precision, numbers

BATCH, STEPS = 8, 7


def batches() -> tf.data.Dataset:
    columns = {"mask": np.arange(28) % 3 == 0, "half": np.arange(56, dtype=np.float16).reshape(28, 2)}
    return tf.data.Dataset.from_tensor_slices((columns, np.arange(28))).batch(4, drop_remainder=True)


def compiled(steps: int, jit: bool = True) -> keras.Model:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", jit_compile=jit, steps_per_execution=steps)
    return model


def test_every_batch_is_in_a_group_once_and_the_last_is_filled() -> None:
    grouped = group_batches(batches(), compiled(3))
    assert steps_per_element(grouped) == 3
    groups = list(grouped)
    assert [int(group.num_steps) for group in groups] == [3, 3, 1]
    assert grouped.element_spec.batches[0]["half"].shape == (3, 4, 2)
    for index, (x, y) in enumerate(batches()):
        of_group, step = groups[index // 3].batches, index % 3
        for name, values in x.items():
            np.testing.assert_array_equal(of_group[0][name][step], values)
        np.testing.assert_array_equal(of_group[1][step], y)
    assert not np.any(groups[2].batches[1][1:])


def test_batches_stay_single_where_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_per_element(group_batches(batches(), compiled(3, jit=False))) == 1
    shorter = tf.data.Dataset.from_tensor_slices(np.arange(10)).batch(4)
    assert steps_per_element(group_batches(shorter, compiled(3))) == 1
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3], [4], [5]]))
    padded = ragged.batch(2, drop_remainder=True).map(lambda values: values.to_tensor())
    assert steps_per_element(group_batches(padded, compiled(3))) == 1
    bytes_of_a_batch = 4 * (1 + 2 * 2 + 8)
    monkeypatch.setattr(compiled_steps, "MAX_GROUP_BYTES", 2 * bytes_of_a_batch + 1)
    model = compiled(20)
    assert steps_per_element(group_batches(batches(), model)) == 2
    assert model.steps_per_execution == 10
    monkeypatch.setattr(compiled_steps, "MAX_GROUP_BYTES", 2 * bytes_of_a_batch - 1)
    single = group_batches(batches(), compiled(20))
    assert not isinstance(single.element_spec, BatchGroup)


def compare(make: Callable[[], StageModel], train: Callable[[], EpochDataset], tolerance: float) -> None:
    """Two epochs, step by step and in groups: as many steps, the same metrics, weights, queues and averages."""
    trained = []
    for steps in (1, 3):
        config = TrainingConfig(epochs=2, jit_compile=True, steps_per_execution=steps, schedule="cosine")
        model, dataset = make(), train()
        compile_model(model, config, 2 * dataset.steps)
        metrics = run_training(model, dataset, TrainingRun("stage", 2))
        trained.append((int(numbers(model.optimizer.iterations)), metrics, [numbers(one) for one in model.variables]))
    (done, metrics, weights), (done_in_groups, of_groups, weights_of_groups) = trained
    assert STEPS < done == done_in_groups <= 2 * STEPS  # float16 starts with a scale that skips steps
    for name, values in metrics.items():
        np.testing.assert_allclose(of_groups[name], values, rtol=10 * tolerance)
    moved = 0.0
    for own, other, before in zip(weights, weights_of_groups, [numbers(v) for v in make().variables], strict=True):
        np.testing.assert_allclose(other, own, atol=tolerance)
        moved = max(moved, float(np.abs(own.astype(float) - before).max()))
    assert moved > 5e-3  # several times what a step of Adam moves


def clicks() -> EpochDataset:
    x = tiny.ranker_inputs(BATCH * STEPS)
    return ranking_dataset(x, (x["item_row"] % 2).astype("float32"), BATCH, seed=3, id_dropout=0.2)


def small_ranker() -> StageModel:
    return tiny.ranker(interests=["mean_pooling", "sim_tier"], dropout=0.2)


def test_a_group_trains_the_ranker_as_its_steps_do() -> None:
    compare(small_ranker, clicks, 1e-5)


def test_a_group_trains_the_ranker_as_its_steps_do_in_float16() -> None:
    with half_precision("float16"):
        compare(small_ranker, clicks, 1e-3)


def test_a_group_fills_queues_and_averages_as_its_steps_do() -> None:
    def pairs() -> EpochDataset:
        columns = tiny.pairs(BATCH * STEPS)
        stacked = {name: values.reshape(STEPS, BATCH, *values.shape[1:]) for name, values in columns.items()}
        return EpochDataset(lambda _: tf.data.Dataset.from_tensor_slices(stacked), 3, STEPS)

    compare(lambda: tiny.csft(queue_size=12, momentum=0.9, modality_dropout=0.3), pairs, 1e-5)


def test_keras_runs_step_by_step_under_a_strategy_of_one_device() -> None:
    config = TrainingConfig(epochs=1, batch_size=BATCH, jit_compile=True, steps_per_execution=3)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model, train = small_ranker(), clicks()
        compile_model(model, config, train.steps)
    run_training(model, train, TrainingRun("ranker", 1))
    assert model.steps_per_execution == 3
    assert int(numbers(model.optimizer.iterations)) == STEPS
