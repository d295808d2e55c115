"""Learning rates, clipping, early stopping, progress."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import ConfigError, TrainingConfig
from mim_keras.models import ContentBranch, VocabularySizes
from mim_keras.optimizers import RowwiseAdam
from mim_keras.training.callbacks import Progress
from mim_keras.training.epoch_dataset import EpochDataset
from mim_keras.training.run_training import EarlyStopping, TrainingRun, compile_model, make_optimizer, run_training
from mim_keras.training.strategy import make_strategy
from tests.mim_keras import tiny


def rates(config: TrainingConfig, steps: int) -> list[float]:
    rate = make_optimizer(config, steps)._learning_rate
    return [float(rate(step)) if callable(rate) else float(rate) for step in (0, 5, 10, 55, 100)]


def test_learning_rates_by_hand() -> None:
    config = {"learning_rate": 0.4}
    assert rates(TrainingConfig(**config), 100) == pytest.approx([0.4] * 5)
    cosine = rates(TrainingConfig(**config, schedule="cosine"), 100)
    assert cosine == pytest.approx([0.2 * (1 + np.cos(np.pi * s / 100)) for s in (0, 5, 10, 55, 100)], abs=1e-6)
    warm = rates(TrainingConfig(**config, schedule="cosine", warmup_steps=10), 100)
    assert warm == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-6)
    rising = rates(TrainingConfig(**config, warmup_steps=10), 100)
    assert rising == pytest.approx([0, 0.2, 0.4, 0.4, 0.4], abs=1e-6)


def test_gradients_are_clipped_together() -> None:
    optimizer = make_optimizer(TrainingConfig(clip_norm=2.0))
    clipped = optimizer._clip_gradients([tf.constant([30.0, 0.0]), tf.constant([40.0])])
    np.testing.assert_allclose(np.concatenate([np.asarray(one) for one in clipped]), [1.2, 0, 1.6], rtol=1e-5)
    assert make_optimizer(TrainingConfig(clip_norm=0.0)).global_clipnorm is None
    # and a training uses it: Adam's first moments after a step of a huge gradient hold the clipped one
    variable = keras.Variable([0.0, 0.0])
    optimizer = make_optimizer(TrainingConfig(clip_norm=2.0))
    optimizer.apply([tf.constant([3e6, 4e6])], [variable])
    momentum = next(one for one in optimizer.variables if "momentum" in one.name)
    np.testing.assert_allclose(np.asarray(momentum), [0.1 * 1.2, 0.1 * 1.6], rtol=1e-4)


@pytest.mark.parametrize("update", ["rowwise_adagrad", "lazy_adam"])
def test_a_step_reads_no_table_as_a_whole(update: str) -> None:
    users = 50_021  # in no other shape
    model = tiny.any_ranker(tiny.ranker_config(id_embedding_update=update), sizes=VocabularySizes(users))
    compile_model(model, replace(tiny.ranker_config().training, jit_compile=False), 10)
    assert isinstance(model.optimizer, RowwiseAdam)
    model.optimizer.build(model.trainable_variables)
    inputs = {name: tf.constant(values) for name, values in tiny.ranker_inputs().items()}
    step = tf.function(model.train_step).get_concrete_function((inputs, tf.ones(6)))
    operations = {
        operation.type
        for operation in step.graph.get_operations()
        for output in operation.outputs
        if output.shape.rank and output.shape[0] == users
    }
    assert operations == {"ReadVariableOp"}  # of the lookup, which copies nothing
    before = np.asarray(model.user_embedding.embeddings)
    step((inputs, tf.ones(6)))
    changed = np.any(np.asarray(model.user_embedding.embeddings) != before, axis=1)
    assert set(np.flatnonzero(changed)) == set(inputs["user_index"].numpy())


def test_the_content_head_is_warmed_up_with_the_tables_updated_by_rows() -> None:
    ranker = tiny.ranker(id_embedding_update="rowwise_adagrad")
    compile_model(ContentBranch(ranker), tiny.ranker_config().training, 10)
    assert ContentBranch(ranker).rowwise_options() == ranker.rowwise_options() != {}


def test_early_stopping_restores_the_best_weights() -> None:
    metrics, weights = iter([0.2, 0.3, 0.1, 0.9]), []
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    rows = tf.data.Dataset.from_tensors((np.ones((4, 2), "float32"), np.ones((4, 1), "float32")))

    def evaluate() -> dict[str, float]:
        weights.append(model.get_weights()[0])
        return {"gauc": next(metrics)}

    run = TrainingRun("ciubm", 6, evaluate, EarlyStopping("gauc", 1))
    found = run_training(model, rows, run)
    assert found["val_gauc"] == [0.2, 0.3, 0.1]
    np.testing.assert_array_equal(model.get_weights()[0], weights[1])


def test_no_epoch_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=make_optimizer(TrainingConfig(epochs=0)), loss="mse")
    before = model.get_weights()
    rows = tf.data.Dataset.from_tensors((np.ones((4, 2), "float32"), np.ones((4, 1), "float32")))
    assert run_training(model, rows, TrainingRun("csft", 0, log_folder=tmp_path)) == {}
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert (tmp_path / "history.json").read_text() == "{}"


def test_a_training_needs_a_batch() -> None:
    empty = EpochDataset(lambda seed: tf.data.Dataset.range(0), 1, 0)
    with pytest.raises(ValueError, match=r"ciubm: a training needs a whole batch; received fewer rows\. Lower"):
        run_training(keras.Sequential(), empty, TrainingRun("ciubm", 1))


def test_progress_counts_steps(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("ranker", 2, steps_per_batch=3, seconds=0.0)
    progress.on_epoch_begin(0)
    with caplog.at_level(logging.INFO, "mim"):
        progress.on_train_batch_end(1, {"loss": 0.5})
    assert "step 6" in caplog.text


def test_multi_worker_needs_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="needs the cluster in TF_CONFIG"):
        make_strategy(TrainingConfig(strategy="multi_worker"))
