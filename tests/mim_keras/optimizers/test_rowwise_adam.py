"""Tables are updated in the rows of a batch alone: as Adam or AdaGrad would, where they are defined by these rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.optimizers import RowwiseAdam
from tests.mim_keras.backend import half_precision, numbers

pytestmark = pytest.mark.any_backend
ROWS, DIM, UPDATES = 6, 2, ("rowwise_adagrad", "lazy_adam")
Batch = tuple[list[int], np.ndarray]  # rows, and a gradient for each


def batch(rows: list[int], seed: int = 0) -> Batch:
    return rows, np.random.default_rng(seed).normal(size=(len(rows), DIM)).astype("float32")


def dense(one: Batch) -> np.ndarray:
    gradient = np.zeros((ROWS, DIM), "float32")
    np.add.at(gradient, one[0], one[1])
    return gradient


def train(optimizer: Any, batches: list[Batch], by_rows: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The table and a kernel after each batch; gradients of the table as lookups give them, or dense."""
    table = keras.layers.Embedding(ROWS, DIM, embeddings_initializer="ones", name="table")
    kernel = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False, name="dense")
    table.build()
    kernel.build((None, 3))
    found = []
    for place, one in enumerate(batches):
        gradient = keras.ops.convert_to_tensor(dense(one))
        if by_rows and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            gradient = tf.IndexedSlices(tf.constant(one[1]), tf.constant(one[0]), tf.constant([ROWS, DIM]))
        own = keras.ops.convert_to_tensor(np.full((3, 1), 0.1 * (place + 1), "float32"))
        optimizer.apply([gradient, own], [table.embeddings, kernel.kernel])
        found.append((numbers(table.embeddings), numbers(kernel.kernel)))
    tables, kernels = zip(*found, strict=True)
    return np.stack(tables), np.stack(kernels)


WHOLE = [batch([0, 1, 2, 3, 4, 5, 3, 3, 0], seed) for seed in range(4)]  # every row, some several times


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_clipnorm": 0.5},
        {"clipnorm": 0.5},
        {"clipvalue": 0.2},
        {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 4)},
        {"weight_decay": 0.1},
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_overwrite_frequency": 2},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_lazy_adam_is_adam_where_each_batch_uses_each_row(options: dict[str, Any]) -> None:
    options = {"learning_rate": 0.05, **options}
    table, kernel = train(RowwiseAdam(table_update="lazy_adam", **options), WHOLE)
    expected = train(keras.optimizers.Adam(**options), WHOLE, by_rows=False)
    np.testing.assert_allclose(table, expected[0], rtol=2e-6)
    np.testing.assert_allclose(kernel, expected[1], rtol=2e-6)
    assert np.all(table[-1] != 1)


def test_lazy_adam_is_adam_in_the_first_step_of_a_row() -> None:
    batches = [batch([row, row], row) for row in range(ROWS)]
    lazy, _ = train(RowwiseAdam(0.05, table_update="lazy_adam"), batches)
    adam, _ = train(keras.optimizers.Adam(0.05), batches, by_rows=False)
    for row in range(ROWS):
        np.testing.assert_allclose(lazy[row, row], adam[row, row], rtol=1e-6)
        np.testing.assert_array_equal(lazy[row, row + 1 :], 1)
        np.testing.assert_array_equal(lazy[-1, row], lazy[row, row])  # and it stays, where Adam moves it on


def test_adagrad_has_one_accumulator_a_row() -> None:
    batches = [batch([1, 4, 1]), batch([4]), batch([0, 4, 1], 2)]
    optimizer = RowwiseAdam(0.05, table_learning_rate=2.0, epsilon=1e-3)
    found, _ = train(optimizer, batches)
    table, total = np.ones((ROWS, DIM)), np.zeros((ROWS, 1))
    for after, one in zip(found, batches, strict=True):
        gradient = dense(one).astype(float)
        total += np.square(gradient).mean(axis=1, keepdims=True)
        table -= 0.1 * gradient / (np.sqrt(total) + 1e-3)
        np.testing.assert_allclose(after, table, rtol=1e-6)
    states = [one for one in optimizer.variables if "table" in one.path and "last_place" not in one.path]
    assert [tuple(one.shape) for one in states] == [(ROWS, 1)]
    np.testing.assert_allclose(numbers(states[0]), total, rtol=1e-5)


@pytest.mark.parametrize("update", UPDATES)
def test_only_rows_with_a_gradient_are_regularised(update: str) -> None:
    rows, gradient = batch([1, 4])
    zero = ([1, 4, 5], np.concatenate([gradient, np.zeros((1, DIM), "float32")]))  # as a lookup that a mask hides
    found, _ = train(RowwiseAdam(0.05, table_update=update, table_l2=0.3), [zero, zero])
    with_l2, _ = train(RowwiseAdam(0.05, table_update=update), [(rows, gradient + 2 * 0.3)])  # the table is of ones
    np.testing.assert_allclose(found[0], with_l2[0], rtol=1e-6)
    np.testing.assert_array_equal(found[-1][[0, 2, 3, 5]], 1)


@pytest.mark.parametrize("update", UPDATES)
def test_clipping_sees_the_sums_of_rows(update: str) -> None:
    opposite = ([2, 2], np.array([[30.0, 40.0], [-30.0, -40.1]], "float32"))  # their sum is 0.1
    _, kernel = train(RowwiseAdam(0.05, global_clipnorm=0.5, epsilon=1.0, table_update=update), [opposite])
    _, alone = train(RowwiseAdam(0.05, epsilon=1.0, table_update=update), [opposite])
    np.testing.assert_allclose(kernel, alone, rtol=1e-6)


def model(update: str, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Embedding(50, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
    made = keras.Sequential([keras.Input((4,), dtype="int32"), *layers])
    made.compile(RowwiseAdam(0.01, table_update=update, table_l2=0.01, global_clipnorm=1.0), loss="mse", **options)
    return made


X = np.random.default_rng(0).integers(0, 20, (12, 4))
FIT = {"x": X, "y": np.arange(12.0), "batch_size": 4, "shuffle": False, "verbose": 0}


@pytest.mark.parametrize("update", UPDATES)
def test_a_saved_model_trains_on(tmp_path: Path, update: str) -> None:
    whole, first = model(update, jit_compile=True), model(update, jit_compile=False)
    whole.fit(epochs=2, **FIT)
    first.fit(
        epochs=1, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)], **FIT
    )
    first.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(epochs=1, **FIT)
    restored = model(update, jit_compile=False)
    restored.fit(epochs=2, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")], **FIT)
    for other in (loaded, restored):
        for one, two in zip(whole.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-7)
    assert np.all(numbers(whole.layers[0].embeddings)[20:] == numbers(model(update).layers[0].embeddings)[20:])


def test_float16_scales_losses() -> None:
    with half_precision("float16"):
        trained = model("rowwise_adagrad", jit_compile=True)
        before = numbers(trained.layers[0].embeddings)
        trained.fit(epochs=3, **FIT)
    used = np.unique(X)
    assert np.all(np.any(numbers(trained.layers[0].embeddings)[used] != before[used], axis=1))


def test_configuration_round_trip() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 4)
    optimizer = RowwiseAdam(schedule, beta_1=0.8, tables=["user", "item"], table_update="lazy_adam", table_l2=0.2)
    other = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(other, RowwiseAdam)
    assert other.get_config() == optimizer.get_config()
    assert (other.tables, other.table_l2, other.beta_1) == (("user", "item"), 0.2, 0.8)


def test_bad_arguments() -> None:
    for options, message in (
        ({"table_update": "adagrad"}, "must be rowwise_adagrad or lazy_adam; received 'adagrad'"),
        ({"table_l2": -1.0}, "table_l2 0 or more; received 1.0 and -1.0"),
        ({"table_learning_rate": 0.0}, "received 0.0 and 0.0"),
        ({"amsgrad": True}, "has no amsgrad"),
    ):
        with pytest.raises(ValueError, match=message):
            RowwiseAdam(**options)
    bias = keras.Variable(np.zeros(3, "float32"), name="bias")
    with pytest.raises(ValueError, match=r"a table has the shape \[rows, dim\]; bias has \(3,\)"):
        RowwiseAdam(tables=["bias"]).build([bias])
