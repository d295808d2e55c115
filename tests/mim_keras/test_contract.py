"""The contract of Keras, over every public layer, loss, metric and model; a test finds classes that are left out."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import mim_keras
from tests.mim_keras import tiny
from tests.mim_keras.backend import HALVES, compiled, gradients, leaves
from tests.mim_keras.cases import LAYERS, LOSSES, METRICS, MODELS, Case

pytestmark = pytest.mark.any_backend
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ABSTRACT = {"FoldedAttention", "MaskConsumingLayer", "StageModel", "Ranker"}
NO_SYMBOLIC = {"MeanPooling", "InterestAttention"}  # named tuples are no arguments of a functional graph
FLOAT32_PARTS = (keras.layers.Embedding,)  # whose gradients are summed in float32


def public_classes() -> dict[str, type]:
    for module in pkgutil.walk_packages(mim_keras.__path__, "mim_keras."):
        importlib.import_module(module.name)

    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    kinds = (keras.layers.Layer, keras.losses.Loss, keras.metrics.Metric)
    found = {one for kind in kinds for one in below(kind) if one.__module__.startswith("mim_keras")}
    return {one.__name__: one for one in found if not one.__name__.startswith("_")}


def test_no_class_is_left_out() -> None:
    assert set(public_classes()) - ABSTRACT == {*LAYERS, *LOSSES, *METRICS, *MODELS}


@pytest.mark.parametrize("name", [*LAYERS, *LOSSES, *METRICS, *MODELS])
def test_a_class_is_registered_and_its_docstring_has_an_example(name: str) -> None:
    kind = public_classes()[name]
    assert keras.saving.get_registered_name(kind) == f"mim>{name}"
    assert ">>> " in (kind.__doc__ or "")


def changed(case: Case, **new: Any) -> dict[str, Any]:
    return {**case.inputs, **new}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_made_again_from_its_config(name: str) -> None:
    case = LAYERS[name]
    layer = case.make()
    output = leaves(layer(**case.inputs))
    assert all(np.all(np.isfinite(one)) for one in output)
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    if name == "AuxiliaryData":
        again.set_data({name: leaves(layer.all(name))[0] for name in layer.names})
    again(**case.inputs)
    again.set_weights(layer.get_weights())
    for one, other in zip(leaves(again(**case.inputs)), output, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_shape_is_known_by_keyword(name: str) -> None:
    case = LAYERS[name]
    layer = case.make()
    output = layer(**case.inputs)
    arguments = layer.compute_output_shape.__code__.co_varnames[1 : layer.compute_output_shape.__code__.co_argcount]
    shapes = {}
    for argument in arguments:
        given = case.inputs.get(argument.removesuffix("_shape"))
        shapes[argument] = keras.tree.map_structure(lambda one: one.shape, given) if given is not None else None
    flat = [tuple(one.shape) for one in keras.tree.flatten(output)]
    known = layer.compute_output_shape(**shapes)
    found = keras.tree.flatten(keras.tree.map_shape_structure(lambda shape: str(tuple(shape)), known))
    expected = [str((None, *shape[1:]) if name == "CrossReplicaNegatives" else shape) for shape in flat]
    assert found == expected


@pytest.mark.parametrize("name", sorted(set(LAYERS) - NO_SYMBOLIC))
def test_a_layer_in_a_functional_model_is_saved_summarized_and_cloned(name: str, tmp_path: Path) -> None:
    case = LAYERS[name]
    layer = case.make()
    layer(**case.inputs)
    symbolic = {n: keras.Input(batch_shape=v.shape, dtype=str(v.dtype), name=n) for n, v in case.inputs.items()}
    model = keras.Model(symbolic, list(keras.tree.flatten(layer(**symbolic))))
    model.summary(print_fn=lambda *args, **kwargs: None)
    if name == "AuxiliaryData":  # its data are in no file
        return
    keras.models.clone_model(model)
    model.save(tmp_path / "layer.keras")
    loaded = keras.saving.load_model(tmp_path / "layer.keras")
    check_equal(loaded.predict_on_batch(case.inputs), model.predict_on_batch(case.inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_compiles_and_every_weight_has_a_gradient(name: str) -> None:
    keras.utils.set_random_seed(1)  # with some weights no unit of a ReLU is active
    case = LAYERS[name]
    layer = case.make()
    output = leaves(layer(**case.inputs))
    for one, other in zip(leaves(compiled(layer, **case.inputs)), output, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    weights = [np.sin(np.arange(one.size, dtype="float32")).reshape(one.shape) for one in output]

    def loss() -> Any:  # no sum that is always the same
        parts = zip(keras.tree.flatten(layer(**case.inputs)), weights, strict=True)
        return sum(keras.ops.sum(keras.ops.cast(one, "float32") * weight) for one, weight in parts)

    if layer.trainable_variables:
        for variable, gradient in zip(layer.trainable_variables, gradients(layer, loss), strict=True):
            assert gradient is not None, f"no gradient reaches {variable.path}"
            assert np.any(gradient != 0), f"only zeros reach {variable.path}"


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", LAYERS)
def test_the_dtype_of_a_layer_reaches_its_parts(name: str, kind: str) -> None:
    if (keras.backend.backend(), kind, name) == ("jax", "float16", "TextTower"):
        pytest.skip("JAX has no product of float16 on a CPU that Keras' attention asks for")
    case = LAYERS[name]
    layer = case.make(dtype=f"mixed_{kind}")
    output = layer(**case.inputs)
    for one in keras.tree.flatten(output):
        dtype = keras.backend.standardize_dtype(one.dtype)
        assert dtype in (kind, "bool", "int32", "int64") or name in ("AuxiliaryData", "MomentumEncoder"), dtype
    assert all(np.all(np.isfinite(one)) for one in leaves(output))
    given = {id(part) for argument in getattr(layer, "config_parts", ()) for part in [getattr(layer, argument)]}
    for part in layer._flatten_layers(include_self=False):
        shared = id(part) in given or name in (
            "TargetEncoder",
            "HistoryEncoder",
            "MomentumEncoder",
            "InterestAttention",
        )
        if not shared and not isinstance(part, FLOAT32_PARTS) and type(part).__name__ not in ("InputLayer", "Softmax"):
            assert keras.backend.standardize_dtype(part.compute_dtype) == kind, part.name
    for variable in layer.trainable_variables:
        assert variable.dtype == "float32"


@pytest.mark.parametrize("name", [name for name, case in LAYERS.items() if case.wrong])
def test_a_wrong_shape_is_refused_with_rule_received_and_fix(name: str) -> None:
    case = LAYERS[name]
    argument, value = case.wrong or ("", None)
    with pytest.raises(ValueError, match=rf"(?s){name}: .*`{argument}`.*must .*; received .*\. \w+") as error:
        case.make()(**changed(case, **{argument: value}))
    assert str(value.shape[1 if "axis 1" in str(error.value) else 0]) in str(error.value)


MASKED = [name for name, case in LAYERS.items() if "history_mask" in case.inputs and name != "TopKSearch"]


@pytest.mark.parametrize("name", MASKED)  # the mask of a TopKSearch is not optional
def test_the_mask_of_a_history_is_taken_from_keras(name: str) -> None:
    case = LAYERS[name]
    layer = case.make()
    given = leaves(layer(**case.inputs))
    masked = keras.ops.convert_to_tensor(case.inputs["history"])
    masked._keras_mask = keras.ops.convert_to_tensor(case.inputs["history_mask"])
    inputs = {key: value for key, value in case.inputs.items() if key != "history_mask"}
    if ON_TENSORFLOW:
        np.testing.assert_array_equal(leaves(layer(**{**inputs, "history": masked}))[0], given[0])
    unmasked = leaves(layer(**inputs))
    everything = np.ones_like(case.inputs["history_mask"])
    np.testing.assert_array_equal(unmasked[0], leaves(layer(**{**inputs, "history_mask": everything}))[0])
    assert not np.allclose(unmasked[0], given[0])


# -- losses and metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_made_again_and_weighs_rows(name: str) -> None:
    make, y_true, y_pred = LOSSES[name]
    loss = make()
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(y_true, y_pred)) == float(loss(y_true, y_pred))
    each = leaves(make(reduction=None)(y_true, y_pred))[0]
    assert each.shape == (3,)
    weights = np.array([3.0, 0.0, 1.0], "float32")
    expected = np.sum(each * weights) / weights.sum()
    assert float(loss(y_true, y_pred, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=rf"{name}: `y_pred` must have shape \(batch, \w+\); received shape"):
        loss(y_true, y_pred[0])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_made_again_and_adds_up(name: str) -> None:
    make, arguments, options = METRICS[name]
    metric = make()
    metric.update_state(*arguments, **options)
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    for _ in range(2):
        again.update_state(*arguments, **options)
    assert float(again.result()) == pytest.approx(float(metric.result()))
    again.reset_state()
    assert float(keras.ops.sum(again.variables[0])) == 0


# -- models ------------------------------------------------------------------------------------------------


def fitted(name: str) -> tuple[keras.Model, Any, Any]:
    make, x, y = MODELS[name]
    model = make()
    if name == "ItemEncoder":
        return model, x, y
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    return model, x, y


def check_equal(one: Any, other: Any) -> None:
    for first, second in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_saved_whole(name: str, tmp_path: Path) -> None:
    model, x, y = fitted(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    if name != "ItemEncoder":
        assert loaded.optimizer.iterations == model.optimizer.iterations
        loaded.fit(x, y, batch_size=8, epochs=1, verbose=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_summarized_cloned_and_made_again(name: str) -> None:
    model, x, _ = fitted(name)
    lines: list[str] = []
    model.summary(print_fn=lambda line, *args, **kwargs: lines.append(line))
    assert "Total params" in "\n".join(lines)
    assert "?" not in "\n".join(lines).split("Total params")[0]
    clone = keras.models.clone_model(model)
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    for other in (clone, again):
        other.set_weights(model.get_weights())
        check_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a SavedModel is of TensorFlow")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_exported_with_the_dtypes_that_it_reads(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    model, x, _ = fitted(name)
    model.export(str(tmp_path / "saved"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    inputs = {key: tf.constant(values) for key, values in x.items()}
    if name not in ("ItemEncoder", "ImageTextAlignment", "Csft"):
        inputs = {key: tf.cast(values, tf.int32) for key, values in inputs.items()}
    if name == "Csft":  # its signature has no hard negatives
        inputs = {key: values[:, :2] if values.shape.rank > 1 else values for key, values in inputs.items()}
        inputs["hard_negative_rows"] = inputs["hard_negative_rows"][:, :0]
    expected, found = leaves(model(inputs)), leaves(served.serve(inputs))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ItemEncoder"}))
def test_the_callbacks_that_save_models_work(name: str, tmp_path: Path) -> None:
    model, x, y = fitted(name)
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras")),
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
    ]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    check_equal(keras.saving.load_model(tmp_path / "best.keras").predict(x, verbose=0), model.predict(x, verbose=0))


RANKERS = ["CiUBM", "RankerEnsemble"]


@pytest.mark.parametrize("name", RANKERS)
def test_metrics_losses_and_weights_are_given_to_compile(name: str) -> None:
    make, x, y = MODELS[name]
    model = make()
    model.compile(optimizer="adam", metrics=["AUC"], weighted_metrics=["AUC"])
    metrics = model.evaluate(x, y, verbose=0, return_dict=True)
    score = np.asarray(model.predict(x, verbose=0)["ctr"])[:, 0]
    wins = [(a > b) + 0.5 * (a == b) for a in score[y == 1] for b in score[y == 0]]
    assert metrics["ctr_AUC"] == pytest.approx(np.mean(wins), abs=0.02)
    head = "ctr" if name == "CiUBM" else "ctr_0"
    for loss, of_row in (("mse", lambda p: (y - p) ** 2), ("mae", lambda p: np.abs(y - p))):
        model.compile(optimizer="adam", loss={head: loss}, loss_weights={head: 2.0})
        own = np.asarray(model.predict(x, verbose=0)[head])[:, 0]
        found = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        assert found == pytest.approx(2 * np.mean(of_row(own)) + penalty(model), rel=1e-5)


def penalty(model: keras.Model) -> float:
    return float(sum(model.losses)) if model.losses else 0.0


def batch_of(x: dict[str, np.ndarray], rows: list[int]) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in x.items()}


def step(make: Callable[[], keras.Model], x: Any, y: Any, weights: Any = None, **options: Any) -> list[np.ndarray]:
    """The weights after a large step of plain gradient descent."""
    model = make()
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.fit(x, y, batch_size=len(next(iter(x.values()))), sample_weight=weights, verbose=0, **options)
    return [np.asarray(keras.ops.convert_to_numpy(one)) for one in model.trainable_variables]


@pytest.mark.parametrize("name", RANKERS)
def test_a_row_of_weight_three_trains_as_three_rows(name: str) -> None:
    make, x, y = MODELS[name]
    thrice = [1, 1, 1, 2, 3, 4]
    repeated = step(make, batch_of(x, thrice), y[thrice])
    rows = [1, 2, 3, 4]
    weighted = step(make, batch_of(x, rows), y[rows], np.array([3, 1, 1, 1], "float32"))
    plain = step(make, batch_of(x, rows), y[rows])
    for one, other in zip(repeated, weighted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert max(np.abs(one - other).max() for one, other in zip(plain, weighted, strict=True)) > 1e-3
    of_classes = np.where(y[rows] > 0, 3.0, 1.0).astype("float32")
    by_class = step(make, batch_of(x, rows), y[rows], class_weight={0: 1.0, 1: 3.0})
    for one, other in zip(by_class, step(make, batch_of(x, rows), y[rows], of_classes), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["ImageTextAlignment", "Csft"])
def test_pairs_of_weight_zero_have_no_loss_of_their_own(name: str) -> None:
    make, x, y = MODELS[name]
    model = make()
    model.compile(optimizer="adam")
    rows = len(next(iter(x.values())))
    weights = np.zeros(rows, "float32")

    def loss() -> float:
        metrics = model.evaluate(x, y, batch_size=rows, sample_weight=weights, verbose=0, return_dict=True)
        return float(metrics["loss"])

    assert loss() == pytest.approx(0, abs=1e-6)
    weights[5] = 1
    alone = loss()
    weights[6] = 1
    both = loss()
    assert alone != pytest.approx(both, rel=1e-4)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ItemEncoder"}))
def test_regularizers_and_added_losses_count(name: str) -> None:
    make, x, y = MODELS[name]
    model = make()
    model.compile(optimizer="adam")
    rows = len(next(iter(x.values())))
    before, own = model.evaluate(x, y, batch_size=rows, verbose=0, return_dict=True)["loss"], penalty(model)
    dense = next(one for one in model._flatten_layers() if isinstance(one, keras.layers.Dense) and one.trainable)
    dense.kernel.regularizer = keras.regularizers.L2(10.0)
    squares = 10 * float(keras.ops.sum(keras.ops.square(dense.kernel)))
    assert penalty(model) == pytest.approx(own + squares, rel=1e-4)
    model.make_test_function(force=True)
    after = model.evaluate(x, y, batch_size=rows, verbose=0, return_dict=True)["loss"]
    assert after - before == pytest.approx(squares, rel=1e-3)
    call = type(model).call

    def adds(x: Any, training: bool = False) -> Any:
        model.add_loss(keras.ops.convert_to_tensor(5.0))
        return call(model, x, training=training)

    model.call = adds
    model.make_test_function(force=True)
    found = model.evaluate(x, y, batch_size=rows, verbose=0, return_dict=True)["loss"]
    assert found - after == pytest.approx(5.0, rel=1e-3)


def test_the_context_of_a_ranker_must_be_given() -> None:
    model = tiny.ranker(context=(3, 2))
    with pytest.raises(ValueError, match=r"reads a mapping with item_row, .*context; received .* Add what is missing"):
        model(tiny.ranker_inputs())
