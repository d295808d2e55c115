"""The ranker as a whole, on whichever backend Keras runs."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from mim_keras.config import COMPARISONS
from mim_keras.interest.activation_unit import ActivationUnit
from mim_keras.interest.target_attention import TargetAttention
from mim_keras.item_table import ItemColumns
from mim_keras.metrics.gauc import auc
from mim_keras.training.batches import likenesses
from mim_keras.training.modal_epochs import ModalEpochs
from tests.mim_keras.backend import gradients, numbers
from tests.mim_keras.tiny_ranker import ITEMS, L, inputs, ranker, some_columns

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def columns() -> ItemColumns:
    return some_columns()


SWITCHES = [
    {},
    {"modal": False, "fusion": False},
    {"fusion": False},
    {"ids": False},
    {"cross_layers": 0},
    {"search": 3},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_ranker_learns_with_every_switch(columns: ItemColumns, switches: dict) -> None:
    model = ranker(columns, **switches)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model.fit(x, y, epochs=80, batch_size=64, verbose=0)
    assert auc(y, numbers(model(x)["ctr"])) > 0.95
    assert np.all(numbers(model.items.vectors) == columns.vectors), "the item table is frozen"


@pytest.mark.parametrize("changes", [{}, {"search": 3}])
def test_padding_in_the_history_never_counts(columns: ItemColumns, changes: dict) -> None:
    model, x = ranker(columns, **changes), inputs()
    model(x)
    model.recency.embeddings.assign(np.random.default_rng(0).normal(size=model.recency.embeddings.shape))
    before = numbers(model(x)["ctr"])
    of_clicks = np.where(x["history_rows"] > 0, 999, x["history_ages"])
    assert not np.allclose(numbers(model({**x, "history_ages": of_clicks})["ctr"]), before, atol=1e-4)
    ages = np.where(x["history_rows"] == 0, 999, x["history_ages"])
    np.testing.assert_array_equal(numbers(model({**x, "history_ages": ages})["ctr"]), before)
    longer = {
        **x,
        "history_rows": np.pad(x["history_rows"], ((0, 0), (0, 3))),
        "history_ages": np.pad(ages, ((0, 0), (0, 3))),
    }
    np.testing.assert_allclose(numbers(model(longer)["ctr"]), before, atol=1e-6)


def test_a_search_leaves_to_attention_what_is_most_like_the_target(columns: ItemColumns) -> None:
    x = inputs()
    whole, all_of_it, nearest = ranker(columns), ranker(columns, search=L), ranker(columns, search=3)
    expected = numbers(whole(x)["ctr"])
    for model in (all_of_it, nearest):
        model(x)
        model.set_weights(whole.get_weights())
    np.testing.assert_allclose(all_of_it(x)["ctr"], expected, atol=1e-6)
    three = {**x, "history_rows": np.where(np.arange(L) < 3, x["history_rows"], 0)}
    np.testing.assert_allclose(nearest(three)["ctr"], whole(three)["ctr"], atol=1e-6)
    assert not np.allclose(nearest(x)["ctr"], expected)
    first = {name: value[:1] for name, value in x.items()}
    for model in (whole, nearest):  # one history for many targets, as it is served
        history = model.encode_history(first["history_rows"] * 0 + 5, first["history_ages"])
        shared = model.score(history, x["item_row"], first["user_index"])["ctr"]
        alone = {
            **x,
            "history_rows": np.full_like(x["history_rows"], 5),
            "history_ages": np.repeat(first["history_ages"], len(x["item_row"]), axis=0),
            "user_index": np.repeat(first["user_index"], len(x["item_row"])),
        }
        np.testing.assert_allclose(shared, model(alone)["ctr"], atol=1e-6)


def test_a_search_of_a_thousand_clicks_finds_the_fifty_most_alike(columns: ItemColumns) -> None:
    rng = np.random.default_rng(2)
    long = {
        "item_row": np.array([2, 5]),
        "history_rows": rng.integers(1, ITEMS + 1, (2, 1000)),
        "history_ages": np.sort(rng.integers(0, 10**6, (2, 1000)))[:, ::-1].copy(),
        "user_index": np.array([1, 2]),
    }
    model, whole = (ranker(columns, search=n, ids=False, fusion=False, simtier=False) for n in (50, 0))
    for one in (model, whole):
        one(long)
    whole.set_weights(model.get_weights())
    vectors = columns.vectors / np.maximum(np.linalg.norm(columns.vectors, axis=1, keepdims=True), 1e-9)
    history, found = model.encode_history(long["history_rows"], long["history_ages"]), model.items(long["item_row"])
    likeness, counts = numbers(model._likeness(history, found, None, None, None)[1]), long["history_rows"] > 0
    places = numbers(model.search(likeness, counts))
    assert places.shape == (2, 50)
    for own, item, rows in zip(places, long["item_row"], long["history_rows"], strict=True):
        cosine = vectors[rows - 1] @ vectors[item - 1]
        assert np.sort(cosine[own])[0] >= np.sort(cosine)[-50] - 1e-6
    assert not np.allclose(model(long)["ctr"], whole(long)["ctr"], atol=1e-6)


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_models_of_others_are_made_of_the_same_parts_and_learn(columns: ItemColumns, name: str) -> None:
    model, x = ranker(columns, **COMPARISONS[name]), inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(x, y, epochs=80, batch_size=64, verbose=0)
    assert auc(y, numbers(model(x)["ctr"])) > 0.95
    assert hasattr(model, "compression") == (name == "sim"), "DIN and DCN know ids alone"
    assert bool(model.crosses) == (name != "din")
    assert isinstance(
        getattr(model, "id_attention", None), {"din": ActivationUnit, "sim": TargetAttention}.get(name, type(None))
    )
    assert hasattr(model, "search") == (name == "sim")


def test_a_hidden_id_is_an_unknown_id(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs()
    history = model.encode_history(x["history_rows"], x["history_ages"])
    hidden = numbers(model({**x, "hide_id": np.ones(6, bool)})["ctr"])
    assert not np.allclose(hidden, numbers(model(x)["ctr"]))
    model.items.id_index.assign(np.zeros_like(columns.id_index))
    unknown = numbers(model.score(history, x["item_row"], x["user_index"])["ctr"])
    np.testing.assert_allclose(hidden, unknown, atol=1e-6)


def test_a_given_vector_stands_in_for_the_table(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs()
    rows = x["item_row"]
    own = numbers(model.items(rows)["vector"])
    given = {**x, "item_vector": own}
    np.testing.assert_allclose(numbers(model(given)["ctr"]), numbers(model(x)["ctr"]), atol=1e-6)
    np.testing.assert_allclose(model({**x, "item_vector": np.zeros_like(own)})["ctr"], model(x)["ctr"], atol=1e-6)


def test_the_whole_table_is_projected_or_the_rows_alone_to_the_same_end(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs(6)
    assert L < model.items.rows <= 6 * L  # for six histories the table, for one its rows
    one = {name: values[:1] for name, values in x.items()}
    np.testing.assert_allclose(numbers(model(one)["ctr"]), numbers(model(x)["ctr"])[:1], atol=1e-6)


def test_without_ages_nothing_depends_on_them(columns: ItemColumns) -> None:
    model, x = ranker(columns, ages=False), inputs()
    later = {**x, "history_ages": x["history_ages"] + 10**6}
    np.testing.assert_array_equal(numbers(model(later)["ctr"]), numbers(model(x)["ctr"]))
    unsaid = {name: values for name, values in x.items() if name != "history_ages"}
    np.testing.assert_array_equal(numbers(model(unsaid)["ctr"]), numbers(model(x)["ctr"]))
    knowing = ranker(columns)
    knowing(x)
    knowing.recency.embeddings.assign(np.random.default_rng(0).normal(size=knowing.recency.embeddings.shape))
    assert not np.allclose(numbers(knowing(later)["ctr"]), numbers(knowing(x)["ctr"]), atol=1e-4)


def test_rows_of_the_id_tables_are_held_small(columns: ItemColumns) -> None:
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    norms = []
    for weight in (0.0, 0.05):
        model = ranker(columns, id_l2=weight)
        model.compile(optimizer=keras.optimizers.Adam(0.02))
        model.fit(x, y, epochs=40, batch_size=64, verbose=0)
        norms.append(float(np.linalg.norm(numbers(model.id_embedding.embeddings))))
    assert norms[1] < 0.5 * norms[0]
    held, free = (
        gradients(model, lambda on=on: model.compute_loss(x, y, model(x, training=False), training=on))
        for on in (True, False)
    )
    tables = [table.embeddings for table in (model.id_embedding, model.history_id_embedding, model.user_embedding)]
    for variable, more, less in zip(model.trainable_variables, held, free, strict=True):
        assert more is not None
        assert less is not None
        pull = 2 * 0.05 * numbers(variable) if any(variable is table for table in tables) else 0.0
        np.testing.assert_allclose(more - less, np.broadcast_to(pull, more.shape), atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"search": 3}, {"attention": False, "fusion": False}], ids=str)
def test_likenesses_may_be_known_beforehand(columns: ItemColumns, changes: dict) -> None:
    model, x = ranker(columns, **changes), inputs(40)
    known = likenesses(columns, x["item_row"], x["history_rows"], rows=16)
    vectors = columns.vectors.astype("float32") / 127
    expected = np.einsum("bd,bld->bl", vectors[x["item_row"]], vectors[x["history_rows"]])
    np.testing.assert_allclose(known, expected, atol=1e-3)
    exact = {**x, "likeness": expected}
    np.testing.assert_allclose(numbers(model(exact)["ctr"]), numbers(model(x)["ctr"]), atol=1e-5)
    turned = {**x, "likeness": -expected}
    assert not np.allclose(numbers(model(turned)["ctr"]), numbers(model(x)["ctr"]), atol=1e-4)


def test_the_map_that_compresses_vectors_is_held_small(columns: ItemColumns) -> None:
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model = ranker(columns, content_l2=0.05, id_l2=0.0)
    loss = float(model.compute_loss(x, y, model(x), training=False))
    directions = np.eye(columns.vectors.shape[1])  # of length one, and the same in all directions together
    lengths = np.linalg.norm(directions @ numbers(model.compression.kernel), axis=1)
    expected = loss + 0.05 * float(np.mean(np.square(lengths)))
    assert float(model.compute_loss(x, y, model(x), training=True)) == pytest.approx(expected, rel=1e-5)


def test_the_modal_branch_learns_alone_at_first(columns: ItemColumns) -> None:
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model = ranker(columns, id_l2=0.01)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model(x)
    before = {id(variable): numbers(variable) for variable in model.trainable_variables}
    losses = model.fit(x, y, epochs=2, batch_size=64, verbose=0, callbacks=[ModalEpochs(2)]).history["loss"]
    changed = {v.path for v in model.trainable_variables if np.any(numbers(v) != before[id(v)])}
    modal = {v.path for layer in (model.modal_head, model.compression) for v in layer.trainable_variables}
    assert modal <= changed
    others = (model.id_embedding, model.user_embedding, model.out, *model.crosses, *model.hidden)
    assert not changed & {v.path for layer in others for v in layer.trainable_variables}
    assert losses[1] < losses[0]
    model.fit(x, y, epochs=60, batch_size=64, verbose=0, callbacks=[ModalEpochs(2)])
    assert auc(y, numbers(model(x)["ctr"])) > 0.9


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_may_be_kept_as_floats(columns: ItemColumns, dtype: str) -> None:
    x, bytes_ = inputs(), ranker(columns)
    floats = ranker(replace(columns, vectors=(columns.vectors / 127).astype(dtype)))
    expected = numbers(bytes_(x)["ctr"])
    floats(x)
    for own, other in zip(floats.trainable_variables, bytes_.trainable_variables, strict=True):
        own.assign(numbers(other))
    assert keras.backend.standardize_dtype(floats.items.vectors.dtype) == dtype
    np.testing.assert_allclose(numbers(floats(x)["ctr"]), expected, atol=1e-3)


def test_what_stands_in_the_place_of_a_missing_vector_is_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-40, 41, (6, 8)).astype(np.int8)
    there = np.array([True, False, True, True, False, True])
    found = ItemColumns.assemble(vectors, there, [[]] * 6, np.arange(6))
    np.testing.assert_array_equal(found.vectors[1:][there], vectors[there])
    assert not found.vectors[1:][~there].any()
    assert found.vectors.dtype == np.int8
