"""Two rankers of two parts of a vector, and the mean of their logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.ciubm import RankerShape
from mim_keras.config import ConfigError, preset
from mim_keras.item_table import ItemColumns
from mim_keras.metrics.gauc import auc
from mim_keras.ranker_ensemble import make_ranker
from mim_keras.training.warm_start import load_weights, save_weights
from tests.mim_keras.backend import numbers
from tests.mim_keras.layer_harness import half_precision
from tests.mim_keras.tiny_ranker import ITEMS, D, inputs, ranker, some_columns

pytestmark = pytest.mark.any_backend
AT = 6


def ensemble(columns: ItemColumns, seed: int = 3, **changes: Any) -> Any:
    keras.utils.set_random_seed(seed)
    return make_ranker(replace(preset("tiny").ciubm, ensemble_at=AT, **changes), RankerShape(users=5), columns)


@pytest.fixture(scope="module")
def columns() -> ItemColumns:
    return some_columns()


def test_the_logit_is_the_mean_of_two_rankers_of_a_part_each(columns: ItemColumns) -> None:
    both, x = ensemble(columns), inputs()
    together = numbers(both(x)["logit"])
    alone = []
    for part, member in zip(columns.split(AT), both.members, strict=True):
        one = ranker(part)
        one(x)
        one.set_weights(member.get_weights())
        alone.append(numbers(one(x)["logit"]))
    assert not np.allclose(*alone)
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert both.vector_dim == D
    np.testing.assert_array_equal(numbers(both.has_vector(np.arange(ITEMS + 1))), columns.has_vector)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_parts_of_a_vector_have_length_one(columns: ItemColumns, dtype: str) -> None:
    vectors = columns.vectors if dtype == "int8" else (columns.vectors / 127).astype(dtype)
    vectors = vectors.copy()
    vectors[5, :AT] = 0  # of this item the first part is missing
    whole = replace(columns, vectors=vectors)
    first, second = whole.split(AT)
    assert first.vectors.shape[1] == AT
    assert second.vectors.shape[1] == D - AT
    for part, given in ((first, vectors[:, :AT]), (second, vectors[:, AT:])):
        assert part.vectors.dtype == np.float16
        length = np.linalg.norm(part.vectors.astype(float) * part.scale, axis=1)
        np.testing.assert_allclose(length, part.has_vector, atol=0.001)
        direction = np.einsum("id,id->i", given.astype(float), part.vectors.astype(float))
        expected = np.linalg.norm(given.astype(float), axis=1) * np.linalg.norm(part.vectors.astype(float), axis=1)
        np.testing.assert_allclose(direction, expected, rtol=2e-3)
    assert (first.has_vector[5], second.has_vector[5]) == (False, True)
    for at in (0, D):
        with pytest.raises(ConfigError, match=rf"split inside it.*at {at} of {D}"):
            whole.split(at)


def test_each_learns_from_its_own_error(columns: ItemColumns) -> None:
    model, x = ensemble(columns), inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    told = model(x, training=True)
    own = [m.compute_loss(x, y, part) for m, part in zip(model.members, told["members"], strict=True)]
    assert float(model.compute_loss(x, y, told)) == pytest.approx(float(own[0]) + float(own[1]), rel=1e-6)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(x, y, epochs=40, batch_size=64, verbose=0)
    told = model(x)
    for answer in (told, *told["members"]):
        assert auc(y, numbers(answer["ctr"])) > 0.95


def test_half_precision(columns: ItemColumns) -> None:
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    with half_precision():
        model = ensemble(columns)
        model(x)
        model.compile(optimizer=keras.optimizers.Adam(0.02))
        model.fit(x, y, epochs=40, batch_size=64, verbose=0)
        told = model(x)
    assert {keras.backend.standardize_dtype(told[name].dtype) for name in ("ctr", "logit")} == {"float32"}
    assert auc(y, numbers(told["ctr"])) > 0.95


def test_a_history_may_be_shared_and_a_vector_given(columns: ItemColumns) -> None:
    model, x = ensemble(columns), inputs()
    expected = numbers(model(x)["ctr"])
    vectors = columns.vectors[x["item_row"]].astype("float32") / 127
    np.testing.assert_allclose(model({**x, "item_vector": vectors})["ctr"], expected, atol=1e-3)
    np.testing.assert_allclose(model({**x, "item_vector": vectors * 0})["ctr"], expected, atol=1e-6)
    others = vectors[::-1].copy()
    assert not np.allclose(model({**x, "item_vector": others})["ctr"], expected, atol=1e-2)
    half = vectors * (np.arange(D) < AT)  # given, and without its second part, which is not taken of the table
    second = numbers(model({**x, "item_vector": half})["members"][1]["logit"])
    lacking = ranker(columns.split(AT)[1])
    lacking(x)
    lacking.set_weights(model.members[1].get_weights())
    own = {**x, "item_vector": np.zeros((6, D - AT), "float32"), "vector_given": np.any(half != 0, axis=1)}
    np.testing.assert_allclose(second, numbers(lacking(own)["logit"]), atol=1e-6)
    assert not np.allclose(second, numbers(model(x)["members"][1]["logit"]), atol=1e-3)
    one = {name: values[1:2] for name, values in x.items()}
    history = model.encode_history(one["history_rows"], one["history_ages"])
    shared = numbers(model.score(history, x["item_row"], one["user_index"])["ctr"])
    repeated = {**x, **{name: np.repeat(one[name], 6, axis=0) for name in one if name != "item_row"}}
    np.testing.assert_allclose(shared, numbers(model(repeated)["ctr"]), atol=1e-6)


def test_a_warm_start_knows_the_tables_of_both(columns: ItemColumns, tmp_path: Path) -> None:
    old, new, x = ensemble(columns), ensemble(columns, seed=4), inputs()
    assert not np.allclose(old(x)["ctr"], new(x)["ctr"])
    keys = {"category": columns.category_names, "item": ["", *map(str, range(8))], "user": ["", *"abcd"]}
    save_weights(old, keys, tmp_path)
    assert load_weights(new, keys, tmp_path) == {"category": 2, "item": 9, "user": 5}
    np.testing.assert_array_equal(numbers(new(x)["ctr"]), numbers(old(x)["ctr"]))
    one = ranker(columns)
    one(x)
    with pytest.raises(ConfigError, match="weights of the same model"):
        load_weights(one, keys, tmp_path)


def test_the_modal_branches_learn_alone_at_first(columns: ItemColumns) -> None:
    model, x = ensemble(columns), inputs(32)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model(x)
    y = (x["item_row"] % 2).astype("float32")
    for jointly in (False, True):
        model.learn_jointly(jointly)
        before = [numbers(member.out.kernel) for member in model.members]
        model.fit(x, y, batch_size=32, verbose=0)
        moved = [not np.allclose(numbers(m.out.kernel), b) for m, b in zip(model.members, before, strict=True)]
        assert moved == [jointly] * 2
