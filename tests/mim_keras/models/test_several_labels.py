"""Rankers that predict more than the click, on whichever backend Keras runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.config import ConfigError
from mim_keras.metrics import auc
from mim_keras.models import CiUBM
from mim_keras.models.ciubm import product_logit
from tests.mim_keras.backend import numbers
from tests.mim_keras.tiny import any_ranker, ranker, ranker_config, ranker_inputs

pytestmark = pytest.mark.any_backend
LABELS = ("clicked", "ordered")
KINDS = ("independent", "esmm", "mmoe")


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def two_labels(kind: str = "independent", **changes: Any) -> CiUBM:
    return ranker(labels=LABELS, multi_label=kind, **changes)


def test_the_logit_of_a_product_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(scale=4, size=(2, 200))
    found = numbers(product_logit(first.astype("float32"), second.astype("float32")))
    np.testing.assert_allclose(sigmoid(found.astype(float)), sigmoid(first) * sigmoid(second), rtol=2e-5)
    extreme = numbers(product_logit(np.array([90.0, 90, -90], "float32"), np.array([90.0, -90, -90], "float32")))
    np.testing.assert_allclose(extreme, [89.3, -90, -180], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_label_has_an_output_and_a_loss(kind: str, tmp_path: Path) -> None:
    model, x = two_labels(kind), ranker_inputs(64)
    found = model(x)
    assert set(found) == {"ctr", "ordered", "content_ctr"}
    assert found["ordered"].shape == (64, 1)
    clicked = (x["item_row"] % 2).astype("float32")
    y = {"clicked": clicked, "ordered": clicked * (x["user_index"] % 2)}
    model.compile(optimizer="adam", metrics={"ordered": ["AUC"]})
    metrics = model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    for label, output in (("clicked", "ctr"), ("ordered", "ordered")):
        p = numbers(found[output])[:, 0]
        loss = -np.mean(np.where(y[label] > 0, np.log(p), np.log(1 - p)))
        assert metrics[f"{output}_loss"] == pytest.approx(loss, rel=1e-4), label
    in_columns = model.evaluate(
        x, np.stack([y["clicked"], y["ordered"]], 1), batch_size=64, verbose=0, return_dict=True
    )
    assert in_columns["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    model.save(tmp_path / "ranker.keras")
    again = keras.saving.load_model(tmp_path / "ranker.keras")(x)
    for name, values in found.items():
        np.testing.assert_array_equal(numbers(again[name]), numbers(values))


def test_esmm_multiplies_the_click_and_what_follows_it() -> None:
    model, x = two_labels("esmm"), ranker_inputs(64)
    alone = two_labels("independent")
    alone.set_weights(model.get_weights())
    found, heads = model(x), alone(x)
    np.testing.assert_array_equal(numbers(found["ctr"]), numbers(heads["ctr"]))
    np.testing.assert_allclose(numbers(found["ordered"]), numbers(heads["ctr"]) * numbers(heads["ordered"]), rtol=1e-4)


def test_mmoe_weighs_the_experts_by_a_gate_of_each_label() -> None:
    model, x = two_labels("mmoe", experts=3), ranker_inputs(16)
    before = {name: numbers(values) for name, values in model(x).items()}
    gates = model.multi_gate_head.gates.kernel
    assert gates.shape[1:] == (2, 3)
    changed = numbers(gates).copy()
    changed[:, 1] = np.random.default_rng(0).normal(size=changed[:, 1].shape)
    gates.assign(changed)
    after = {name: numbers(values) for name, values in model(x).items()}
    np.testing.assert_array_equal(after["ctr"], before["ctr"])
    assert not np.allclose(after["ordered"], before["ordered"])


@pytest.mark.learns
@pytest.mark.parametrize("kind", KINDS)
def test_each_label_is_learned_from_its_own_column(kind: str) -> None:
    rng, x = np.random.default_rng(0), ranker_inputs(1_024)
    clicked = (rng.random(1_024) < np.where(x["item_row"] % 3 == 0, 0.9, 0.2)).astype("float32")
    ordered = clicked * (rng.random(1_024) < np.where(x["user_index"] > 2, 0.9, 0.1))
    model = two_labels(kind)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(x, {"clicked": clicked, "ordered": ordered}, batch_size=128, epochs=12, verbose=0)
    found = {name: numbers(values)[:, 0] for name, values in model(x).items()}
    of_clicked = clicked > 0
    assert auc(clicked, found["ctr"]) > 0.8
    assert auc(ordered, found["ordered"]) > 0.85
    assert auc(ordered[of_clicked], found["ordered"][of_clicked]) > 0.8
    assert auc(ordered[of_clicked], found["ctr"][of_clicked]) < 0.75  # the click does not predict the order


def test_a_label_of_weight_zero_trains_nothing() -> None:
    x = ranker_inputs(64)
    y = {"clicked": (x["item_row"] % 2).astype("float32"), "ordered": (x["item_row"] % 3 == 0).astype("float32")}
    model = two_labels(label_loss_weights={"ordered": 0.0})
    (head,) = model.label_heads
    before = numbers(head.logit.kernel).copy()
    model.compile(optimizer="sgd")
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    np.testing.assert_array_equal(numbers(head.logit.kernel), before)
    other = two_labels(label_loss_weights={"ordered": 2.0})
    other.compile(optimizer="sgd")
    other.fit(x, y, batch_size=32, epochs=2, verbose=0)
    assert not np.allclose(numbers(other.label_heads[0].logit.kernel), before)


def test_an_ensemble_averages_the_logits_of_every_label() -> None:
    config = ranker_config(ensemble_split_dim=6, labels=LABELS, multi_label="esmm")
    model, x = any_ranker(config), ranker_inputs(64)
    found = {name: numbers(values) for name, values in model(x).items()}
    assert {"ctr", "ordered", "ctr_0", "ordered_1"} <= set(found)
    logit = {name: np.log(p / (1 - p)) for name, p in found.items()}
    np.testing.assert_allclose(logit["ordered"], (logit["ordered_0"] + logit["ordered_1"]) / 2, atol=1e-4)
    y = {"clicked": (x["item_row"] % 2).astype("float32"), "ordered": np.zeros(64, "float32")}
    model.compile(optimizer="adam")
    metrics = model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert metrics["ordered_1_loss"] == pytest.approx(-np.mean(np.log(1 - found["ordered_1"])), rel=1e-4)
    assert metrics["content_ctr_0_loss"] != pytest.approx(metrics["ordered_0_loss"])


def test_labels_and_weights_in_every_form_that_keras_takes() -> None:
    x = ranker_inputs(64)
    clicked = (x["item_row"] % 2).astype("float32")
    ordered = clicked * (x["user_index"] % 2)
    weight = np.linspace(0.5, 2, 64).astype("float32")
    model = two_labels()
    model.compile(optimizer="sgd")

    def loss(y: Any, sample_weight: Any = None) -> float:
        found = model.evaluate(x, y, batch_size=64, sample_weight=sample_weight, verbose=0, return_dict=True)
        return float(found["loss"])

    columns = np.stack([clicked, ordered], axis=1)
    expected, weighted = loss(columns), loss(columns, weight)
    assert expected != pytest.approx(weighted, rel=1e-3)
    for y in ({"clicked": clicked, "ordered": ordered}, {"ctr": clicked, "ordered": ordered}, [clicked, ordered]):
        assert loss(y) == pytest.approx(expected, rel=1e-6)
        assert loss(y, weight) == pytest.approx(weighted, rel=1e-6)
    y = {"clicked": clicked, "ordered": ordered}
    assert loss(y, {"clicked": weight, "ordered": weight}) == pytest.approx(weighted, rel=1e-6)
    model.fit(x, y, batch_size=32, validation_data=(x, y, weight), verbose=0)
    with pytest.raises(ValueError, match="class_weight is for one label"):
        model.fit(x, columns, class_weight={0: 1.0, 1: 9.0}, verbose=0)


def test_labels_that_do_not_fit_are_refused() -> None:
    model, x = two_labels(), ranker_inputs(8)
    model.compile(optimizer="adam")
    with pytest.raises(ValueError, match=r"the labels clicked, ordered; received labels of shape \(.*,\)"):
        model.evaluate(x, np.zeros(8, "float32"), verbose=0)
    with pytest.raises(ValueError, match="received clicked. Add ordered"):
        model.evaluate(x, {"clicked": np.zeros(8, "float32")}, verbose=0)
    for changes, rule in (
        ({"labels": ["ordered"]}, "the first of ciubm.labels is clicked"),
        ({"labels": ["clicked", "clicked"]}, "are distinct"),
        ({"labels": ["clicked", "ctr"]}, "not named as outputs"),
        ({"labels": ["clicked", "a b"]}, "letters, digits and _"),
        ({"labels": ["clicked", "cart_1"]}, "letters, digits and _"),
        ({"multi_label": "mmoe", "hidden": []}, "needs ciubm.hidden"),
        ({"multi_label": "both"}, "multi_label is one of"),
        ({"experts": 0}, "experts must be at least 1"),
        ({"label_loss_weights": {"ordered": 1.0}}, "are of labels of the ranker"),
        ({"final_score": {"ctr": "1"}}, "names to numbers"),
        ({"negative_sampling_rate": 0.0}, "above 0 and at most 1"),
        ({"calibration": "magic"}, "calibration is one of"),
        ({"final_score": {"ctr": 11}}, "from -10 to 10"),
        ({"labels": ["clicked", "final_score"]}, "not named as outputs"),
    ):
        with pytest.raises(ConfigError, match=rule):
            ranker_config(**changes)
