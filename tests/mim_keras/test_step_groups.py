"""Steps that are compiled as one loop train as steps by themselves do, and none is lost."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import TrainingConfig
from mim_keras.training import step_groups
from mim_keras.training.batches import ranking_batches
from mim_keras.training.fit import Progress, fit, make_ready
from mim_keras.training.step_groups import StepGroup, in_groups, steps_of
from tests.mim_keras.backend import numbers
from tests.mim_keras.tiny_ranker import inputs, ranker, some_columns

BATCH, STEPS = 8, 7


def batches() -> tf.data.Dataset:
    columns = {"mask": np.arange(28) % 3 == 0, "half": np.arange(56, dtype=np.float16).reshape(28, 2)}
    return tf.data.Dataset.from_tensor_slices((columns, np.arange(28))).batch(4, drop_remainder=True)


def test_every_batch_is_in_a_group_once_and_the_last_is_filled() -> None:
    grouped = in_groups(batches(), 3)
    assert steps_of(grouped) == 3
    groups = list(grouped)
    assert [int(group.many) for group in groups] == [3, 3, 1]
    assert grouped.element_spec.batches[0]["half"].shape == (3, 4, 2)
    for place, (x, y) in enumerate(batches()):
        of_group, of_step = groups[place // 3].batches, place % 3
        for name, values in x.items():
            np.testing.assert_array_equal(of_group[0][name][of_step], values)
        np.testing.assert_array_equal(of_group[1][of_step], y)
    assert not np.any(groups[2].batches[1][1:])


def test_batches_too_large_to_lie_together_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_of_a_batch = 4 * (1 + 2 * 2 + 8)
    monkeypatch.setattr(step_groups, "MOST_BYTES", 2 * bytes_of_a_batch + 1)
    assert steps_of(in_groups(batches(), 20)) == 2
    monkeypatch.setattr(step_groups, "MOST_BYTES", 2 * bytes_of_a_batch - 1)
    alone = in_groups(batches(), 20)
    assert steps_of(alone) == 1
    assert not isinstance(alone.element_spec, StepGroup)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_group_trains_as_its_steps_do(policy: str) -> None:
    trained = []
    for together in (1, 3):
        config = TrainingConfig(
            epochs=2, batch_size=BATCH, jit_compile=True, steps_per_execution=together, schedule="cosine"
        )
        keras.config.set_dtype_policy(policy)
        try:
            model = ranker(some_columns(), attention=False, fusion=False)
            x = inputs(BATCH * STEPS)
            train = ranking_batches(x, (x["item_row"] % 2).astype("float32"), BATCH, seed=3, id_dropout=0.2)
            make_ready(model, config, 2 * train.steps)
            figures = fit("ranker", model, train, config)
        finally:
            keras.config.set_dtype_policy("float32")
        done = int(numbers(model.optimizer.iterations))
        assert done == 2 * STEPS if policy == "float32" else done <= 2 * STEPS  # float16 begins with steps too large
        trained.append((figures, [numbers(variable) for variable in model.variables]))
    (figures, weights), (of_groups, weights_of_groups) = trained
    tolerance = 1e-5 if policy == "float32" else 2e-3
    for name, values in figures.items():
        np.testing.assert_allclose(of_groups[name], values, rtol=10 * tolerance)
    for own, other in zip(weights, weights_of_groups, strict=True):
        np.testing.assert_allclose(other, own, atol=tolerance)


def test_progress_counts_steps_not_groups(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("ranker", 2, together=3, seconds=0.0)
    progress.on_epoch_begin(0)
    with caplog.at_level(logging.INFO, "mim"):
        progress.on_train_batch_end(1, {"loss": 0.5})
    assert "step 6" in caplog.text
