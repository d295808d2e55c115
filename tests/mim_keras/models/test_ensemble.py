"""Rankers side by side, and the mean of their logits."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.config import ConfigError
from mim_keras.models import ContentBranch, RankerEnsemble
from mim_keras.training.warm_start import load_weights, save_weights
from tests.mim_keras.backend import numbers
from tests.mim_keras.tiny import ITEMS, D, any_ranker, item_data, ranker, ranker_config, ranker_inputs

pytestmark = pytest.mark.any_backend
SPLIT = 6


def ensemble(seed: int = 3) -> RankerEnsemble:
    found = any_ranker(ranker_config(ensemble_split_dim=SPLIT), seed)
    assert isinstance(found, RankerEnsemble)
    return found


def logit(probability: object) -> np.ndarray:
    p = numbers(probability).astype(float)
    return np.log(p / (1 - p))


def test_the_logit_is_the_mean_of_two_rankers_of_a_part_each() -> None:
    both, x = ensemble(), ranker_inputs()
    found = both(x)
    alone = []
    for part, member in zip(item_data().split_dims(SPLIT), both.members, strict=True):
        one = ranker(part)
        one.set_weights(member.get_weights())
        alone.append(logit(one(x)["ctr"]))
    assert not np.allclose(*alone)
    np.testing.assert_allclose(logit(found["ctr"]), (alone[0] + alone[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(logit(found["ctr_1"]), alone[1], atol=1e-5)
    assert both.item_embedding_dim == D
    np.testing.assert_array_equal(numbers(both.has_embedding(np.arange(ITEMS + 1))), item_data().has_embedding)


def test_each_is_trained_on_its_own_loss() -> None:
    model, x = ensemble(), ranker_inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model.compile(optimizer="adam")
    found = model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    own = []
    for member in model.members:
        member.compile(optimizer="adam")
        own.append(member.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)["loss"])
    assert found["loss"] == pytest.approx(sum(own), rel=1e-5)


def test_a_history_is_shared_and_an_embedding_given() -> None:
    model, x = ensemble(), ranker_inputs()
    expected = numbers(model(x)["ctr"])
    embeddings = item_data().embeddings[x["item_row"]].astype("float32") / 127
    np.testing.assert_allclose(numbers(model({**x, "item_embedding": embeddings})["ctr"]), expected, atol=1e-3)
    np.testing.assert_allclose(numbers(model({**x, "item_embedding": embeddings * 0})["ctr"]), expected, atol=1e-6)
    others = embeddings[::-1].copy()
    assert not np.allclose(numbers(model({**x, "item_embedding": others})["ctr"]), expected, atol=1e-2)
    half = embeddings * (np.arange(D) < SPLIT)  # given without its second part, which then is not the table's
    second = numbers(model({**x, "item_embedding": half})["ctr_1"])
    lacking = ranker(item_data().split_dims(SPLIT)[1])
    lacking.set_weights(model.members[1].get_weights())
    given = {"item_embedding": np.zeros((6, D - SPLIT), "float32"), "use_item_embedding": np.any(half != 0, axis=1)}
    np.testing.assert_allclose(second, numbers(lacking({**x, **given})["ctr"]), atol=1e-6)
    assert not np.allclose(second, numbers(model(x)["ctr_1"]), atol=1e-3)
    one = {name: values[1:2] for name, values in x.items()}
    history = model.encode_history(one["history_rows"], one["history_ages"])
    shared = numbers(model.score(history, x["item_row"], one["user_index"])["ctr"])
    repeated = {**x, **{name: np.repeat(one[name], 6, axis=0) for name in one if name != "item_row"}}
    np.testing.assert_allclose(shared, numbers(model(repeated)["ctr"]), atol=1e-6)


def test_several_rankers_of_the_same_settings() -> None:
    model, x = any_ranker(ranker_config(ensemble_size=3)), ranker_inputs()
    assert isinstance(model, RankerEnsemble)
    found = {name: logit(values) for name, values in model(x).items()}
    alone = [found[f"ctr_{index}"] for index in range(3)]
    assert not np.allclose(alone[0], alone[1])
    assert not np.allclose(alone[1], alone[2])
    np.testing.assert_allclose(found["ctr"], sum(alone) / 3, atol=1e-5)
    assert model.item_embedding_dim == D
    one = ranker()
    for index, member in enumerate(model.members):
        one.set_weights(member.get_weights())
        np.testing.assert_allclose(logit(one(x)["ctr"]), alone[index], atol=1e-5)
    given = {"item_embedding": item_data("float32").embeddings[x["item_row"]][::-1].copy()}
    one.set_weights(model.members[2].get_weights())
    np.testing.assert_allclose(numbers(model(x | given)["ctr_2"]), numbers(one(x | given)["ctr"]), atol=1e-6)
    with pytest.raises(ConfigError, match="an ensemble of ciubm.ensemble_split_dim has one ranker for each part"):
        ranker_config(ensemble_split_dim=4, ensemble_size=2)
    with pytest.raises(ConfigError, match=r"ciubm\.ensemble_size must be at least 1; received 0"):
        ranker_config(ensemble_size=0)


def test_a_warm_start_knows_the_tables_of_both(tmp_path: Path) -> None:
    old, new, x = ensemble(), ensemble(seed=4), ranker_inputs()
    assert not np.allclose(numbers(old(x)["ctr"]), numbers(new(x)["ctr"]))
    keys = {"attribute": ["(none)", "a", "b"], "item": ["", *map(str, range(8))], "user": ["", *"abcd"]}
    save_weights(old, keys, tmp_path)
    assert load_weights(new, keys, tmp_path) == {"attribute": 3, "item": 9, "user": 5}
    np.testing.assert_array_equal(numbers(new(x)["ctr"]), numbers(old(x)["ctr"]))
    with pytest.raises(ConfigError, match="weights of the same model"):
        load_weights(ranker(), keys, tmp_path)


@pytest.mark.parametrize("make", [ensemble, ranker])
def test_the_content_branch_is_trained_alone(make: object) -> None:
    model, x = make(), ranker_inputs(64)  # type: ignore[operator]
    y = (x["item_row"] % 2).astype("float32")
    branch = ContentBranch(model)
    branch.compile(optimizer=keras.optimizers.Adam(0.02))
    before = {id(variable): numbers(variable) for variable in model.variables}
    losses = branch.fit(x, y, epochs=20, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    members = getattr(model, "members", [model])
    frozen = [member.head.logit.kernel for member in members] + [member.user_embedding.embeddings for member in members]
    for variable in frozen:
        np.testing.assert_array_equal(numbers(variable), before[id(variable)])
    for member in members:
        kernel = member.target_encoder.content_projection.kernel
        assert np.any(numbers(kernel) != before[id(kernel)])
    branch.release()
    assert all(layer.trainable for layer in model.layers_outside_content_head())
    with pytest.raises(ValueError, match=r"needs a ranker with content; received one without\. Set ciubm\.use_content"):
        ContentBranch(any_ranker(ranker_config().without_content()))
