"""Steps that are compiled as one loop train as steps by themselves do, and none is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.ciubm import CiUBM
from mim_keras.config import ContrastTerm, CsftConfig, TrainingConfig
from mim_keras.csft import Csft
from mim_keras.training import step_groups
from mim_keras.training.batches import Epochs, ranking_batches
from mim_keras.training.fit import Progress, fit, make_ready
from mim_keras.training.stage_model import StageModel
from mim_keras.training.step_groups import StepGroup, in_groups, steps_of
from tests.mim_keras.backend import numbers
from tests.mim_keras.tiny_ranker import inputs, ranker, some_columns
from tests.tiny_encoder import tiny_encoder

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


def test_batches_that_may_differ_in_shape_stay_alone() -> None:
    shorter = tf.data.Dataset.from_tensor_slices(np.arange(10)).batch(4)
    assert steps_of(in_groups(shorter, 3)) == 1
    lists = tf.ragged.constant([[1], [2, 3], [4], [5]])
    as_long_as_needed = (
        tf.data.Dataset.from_tensor_slices(lists).batch(2, drop_remainder=True).map(lambda v: v.to_tensor())
    )
    assert steps_of(in_groups(as_long_as_needed, 3)) == 1


def compare(make: Callable[[], StageModel], train: Callable[[], Epochs], tolerance: float, together: int = 3) -> None:
    """Two epochs, step by step and in groups: as many steps, the same figures, weights, queues and copies."""
    trained = []
    for steps in (1, together):
        config = TrainingConfig(
            epochs=2, batch_size=BATCH, jit_compile=True, steps_per_execution=steps, schedule="cosine"
        )
        model, batches = make(), train()
        make_ready(model, config, 2 * batches.steps)
        figures = fit("stage", model, batches, config)
        trained.append((int(numbers(model.optimizer.iterations)), figures, [numbers(one) for one in model.variables]))
    (done, figures, weights), (done_in_groups, of_groups, weights_of_groups) = trained
    assert STEPS < done == done_in_groups <= 2 * STEPS  # float16 begins with a scale too large for some steps
    for name, values in figures.items():
        np.testing.assert_allclose(of_groups[name], values, rtol=10 * tolerance)
    for own, other in zip(weights, weights_of_groups, strict=True):
        np.testing.assert_allclose(other, own, atol=tolerance)


def clicks() -> Epochs:
    x = inputs(BATCH * STEPS)
    return ranking_batches(x, (x["item_row"] % 2).astype("float32"), BATCH, seed=3, id_dropout=0.2)


def small_ranker() -> CiUBM:
    return ranker(some_columns(), attention=False, fusion=False, dropout=0.2)


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 1e-3)])
def test_a_group_trains_the_ranker_as_its_steps_do(policy: str, tolerance: float) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        compare(small_ranker, clicks, tolerance)
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_group_fills_queues_and_moves_copies_as_its_steps_do() -> None:
    size = 12

    def make() -> Csft:
        encoder, _ = tiny_encoder()
        side, long = encoder.config.image.size, encoder.config.text.max_tokens
        features = encoder.features(
            {
                "image": np.linspace(0, 1, size * side * side * 3, dtype="float32").reshape(size, side, side, 3),
                "image_mask": np.ones(size, "float32"),
                "token_ids": np.arange(size * long).reshape(size, long) % 9 + 1,
                "token_mask": np.ones((size, long), bool),
                "text_mask": np.ones(size, "float32"),
            }
        )
        encoder.freeze_towers()
        terms = (ContrastTerm(pools=("batch", "time")),)
        config = CsftConfig(terms=terms, queue_size=12, momentum=0.9, modality_dropout=0.3)
        return Csft(encoder, config, np.zeros(size, "float32"), {n: numbers(v) for n, v in features.items()})

    def pairs() -> Epochs:
        rng = np.random.default_rng(2)
        rows = rng.integers(0, size, (STEPS, BATCH, 2)).astype("int32")
        batches = {"rows": rows, "key": rng.integers(0, size, (STEPS, BATCH)).astype("int32")}
        return Epochs(lambda _: tf.data.Dataset.from_tensor_slices(batches), 3, STEPS)

    compare(make, pairs, 1e-5)


def test_under_a_strategy_of_one_device_keras_goes_from_step_to_step() -> None:
    config = TrainingConfig(epochs=1, batch_size=BATCH, jit_compile=True, steps_per_execution=3)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model, train = small_ranker(), clicks()
        make_ready(model, config, train.steps)
    assert (model.steps_in_loop, model.steps_per_execution) == (1, 3)
    fit("ranker", model, train, config)
    assert int(numbers(model.optimizer.iterations)) == STEPS


def test_progress_counts_steps_not_groups(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("ranker", 2, together=3, seconds=0.0)
    progress.on_epoch_begin(0)
    with caplog.at_level(logging.INFO, "mim"):
        progress.on_train_batch_end(1, {"loss": 0.5})
    assert "step 6" in caplog.text
