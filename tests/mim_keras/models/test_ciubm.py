"""The ranker as a whole, on whichever backend Keras runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.config import BASELINES, INTERESTS, ConfigError, Interest
from mim_keras.layers import DINAttention, TargetAttention
from mim_keras.metrics import auc
from mim_keras.models import CiUBM, ContentBranch, Ranker, VocabularySizes
from mim_keras.models.ciubm import INTEREST_LAYERS
from mim_keras.training.ranking_dataset import precompute_similarity
from tests.mim_keras.backend import gradients, leaves, numbers
from tests.mim_keras.tiny import ITEMS, L, any_ranker, item_data, ranker, ranker_config, ranker_inputs

pytestmark = pytest.mark.any_backend
SEARCH = {"search_top_k": 3}
NO_ATTENTION = {"interests": ["mean_pooling", "sim_tier"]}


def ctr(model: Ranker, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return numbers(model(inputs)["ctr"])[:, 0]


@pytest.mark.parametrize("changes", [{}, SEARCH], ids=str)
def test_padding_in_the_history_never_counts(changes: dict) -> None:
    model, x = ranker(**changes), ranker_inputs()
    table = model.history_encoder.recency_embedding.embeddings
    table.assign(np.random.default_rng(0).normal(size=table.shape))
    before = ctr(model, x)
    of_behaviours = np.where(x["history_rows"] > 0, 999, x["history_ages"])
    assert not np.allclose(ctr(model, {**x, "history_ages": of_behaviours}), before, atol=1e-4)
    ages = np.where(x["history_rows"] == 0, 999, x["history_ages"])
    np.testing.assert_array_equal(ctr(model, {**x, "history_ages": ages}), before)
    longer = {name: np.pad(values, ((0, 0), (0, 3))) for name, values in x.items() if values.ndim == 2}
    np.testing.assert_allclose(ctr(model, {**x, **longer}), before, atol=1e-6)


def test_a_search_leaves_the_most_similar_behaviours_to_attention() -> None:
    x = ranker_inputs()
    whole, everything, nearest = ranker(), ranker(search_top_k=L), ranker(**SEARCH)
    expected = ctr(whole, x)
    for model in (everything, nearest):
        model.set_weights(whole.get_weights())
    np.testing.assert_allclose(ctr(everything, x), expected, atol=1e-6)
    three = {**x, "history_rows": np.where(np.arange(L) < 3, x["history_rows"], 0)}
    np.testing.assert_allclose(ctr(nearest, three), ctr(whole, three), atol=1e-6)
    assert not np.allclose(ctr(nearest, x), expected)


@pytest.mark.parametrize("changes", [{}, SEARCH, BASELINES["din"]], ids=str)
def test_one_history_is_shared_by_many_targets(changes: dict) -> None:
    model, x = ranker(**changes), ranker_inputs()
    one = {name: values[1:2] for name, values in x.items()}
    history = model.encode_history(one["history_rows"], one["history_ages"])
    shared = model.score(history, x["item_row"], one["user_index"])["ctr"]
    repeated = {name: x[name] if name == "item_row" else np.repeat(one[name], 6, axis=0) for name in x}
    np.testing.assert_allclose(numbers(shared)[:, 0], ctr(model, repeated), atol=1e-6)


def test_statistics_are_features_of_each_target(tmp_path: Path) -> None:
    model, rng = ranker(statistics=3), np.random.default_rng(0)
    x = {**ranker_inputs(), "statistics": rng.normal(size=(6, 3)).astype("float32")}
    before = ctr(model, x)
    other = x["statistics"].copy()
    other[2] += 1
    changed = ctr(model, {**x, "statistics": other})
    assert np.flatnonzero(changed != before).tolist() == [2]
    model.save(tmp_path / "ranker.keras")
    np.testing.assert_array_equal(ctr(keras.saving.load_model(tmp_path / "ranker.keras"), x), before)
    with pytest.raises(ValueError, match="statistics"):
        model({name: values for name, values in x.items() if name != "statistics"})
    with pytest.raises(ValueError, match=r"`statistics` must have shape \(batch, 3\); received \(6, 2\)"):
        model({**x, "statistics": other[:, :2]})
    ensemble = any_ranker(ranker_config(ensemble_split_dim=8), sizes=VocabularySizes(users=5, statistics=3))
    history = ensemble.encode_history(x["history_rows"], x["history_ages"])
    scores = ensemble.score(history, x["item_row"], x["user_index"], statistics=x["statistics"])["ctr"]
    np.testing.assert_allclose(numbers(scores)[:, 0], ctr(ensemble, x), atol=1e-6)


def test_a_search_of_a_thousand_behaviours_finds_the_fifty_most_similar() -> None:
    rng, data = np.random.default_rng(2), item_data()
    long = {
        "item_row": np.array([2, 5]),
        "history_rows": rng.integers(1, ITEMS + 1, (2, 1000)),
        "history_ages": np.sort(rng.integers(0, 10**6, (2, 1000)))[:, ::-1].copy(),
        "user_index": np.array([1, 2]),
    }
    changes = {"interests": ["mean_pooling", "modal_attention"], "use_ids": False}
    model, whole = ranker(search_top_k=50, **changes), ranker(**changes)
    whole.set_weights(model.get_weights())
    seen = {}
    model.search.call = lambda similarity, history_mask, call=model.search.call: seen.setdefault(
        "indices", call(similarity, history_mask)
    )
    assert not np.allclose(ctr(model, long), ctr(whole, long), atol=1e-6)
    indices = numbers(seen["indices"])
    assert indices.shape == (2, 50)
    embeddings = data.embeddings / np.maximum(np.linalg.norm(data.embeddings, axis=1, keepdims=True), 1e-9)
    for own, item, rows in zip(indices, long["item_row"], long["history_rows"], strict=True):
        cosine = embeddings[rows] @ embeddings[item]
        assert np.sort(cosine[own])[0] >= np.sort(cosine)[-50] - 1e-2


def test_baselines_are_the_models_they_are_named_after() -> None:
    din, sim, dcn = (ranker(**BASELINES[name]) for name in ("din", "sim", "dcn"))
    assert isinstance(din.din_attention, DINAttention)
    assert not din.head.crosses
    assert isinstance(sim.interest_attention.attentions[0], TargetAttention)
    assert sim.search.k == 50
    assert dcn.head.crosses
    assert (dcn.din_attention, dcn.interest_attention, dcn.search, dcn.content_head) == (None,) * 4
    assert (din.content_head is None, sim.content_head is None) == (True, False)


def test_a_masked_id_is_an_unknown_id() -> None:
    model, x = ranker(), ranker_inputs()
    history = model.encode_history(x["history_rows"], x["history_ages"])
    masked = ctr(model, {**x, "drop_id": np.ones(6, bool)})
    assert not np.allclose(masked, ctr(model, x))
    model.item_table.id_index.assign(np.zeros(ITEMS + 1, np.int32))
    unknown = numbers(model.score(history, x["item_row"], x["user_index"])["ctr"])[:, 0]
    np.testing.assert_allclose(masked, unknown, atol=1e-6)


def test_a_given_embedding_replaces_the_tables_and_what_was_computed_of_it() -> None:
    model, x = ranker(), ranker_inputs()
    own = numbers(model.item_table(x["item_row"]).embedding)
    similarity = np.zeros((6, L), "float32")
    np.testing.assert_allclose(
        ctr(model, {**x, "item_embedding": own, "similarity": similarity}), ctr(model, x), atol=1e-6
    )
    assert not np.allclose(ctr(model, {**x, "item_embedding": own[::-1].copy()}), ctr(model, x), atol=1e-3)


def test_a_target_without_content_is_compared_with_nothing() -> None:
    model, x = ranker(), ranker_inputs()
    lacking = {**x, "item_row": np.full(6, 4)}  # item 4 has no embedding
    before = ctr(model, lacking)
    table = model.item_table.embeddings
    table.assign(-numbers(table))  # every similarity changes its sign, the projected content too
    kernel = model.target_encoder.content_projection.kernel
    kernel.assign(-numbers(kernel))
    np.testing.assert_allclose(ctr(model, lacking), before, atol=1e-6)
    tier = model.sim_tier(np.full((1, 3), 0.5, "float32"), similarity_mask=np.zeros((1, 3), bool))
    assert not numbers(tier).any()


def test_behaviours_without_content_still_count_by_their_ids() -> None:
    for name in ("target_attention", "semantic_target_attention"):
        model = ranker(interests=[name])
        rows = np.array([[4, 1, 2, 0, 0, 0, 0, 0]])  # the first has no embedding
        x = {"item_row": np.array([1]), "history_rows": rows, "history_ages": rows * 0, "user_index": np.array([1])}
        before = ctr(model, x)
        table = model.history_encoder.id_embedding.embeddings
        changed = numbers(table).copy()
        changed[item_data().id_index[4]] += 10.0
        table.assign(changed)
        assert not np.allclose(ctr(model, x), before, rtol=0, atol=1e-6), name


def test_without_recency_nothing_depends_on_ages() -> None:
    model, x = ranker(use_recency=False), ranker_inputs()
    later = {**x, "history_ages": x["history_ages"] + 10**6}
    without = {name: values for name, values in x.items() if name != "history_ages"}
    for other in (later, without):
        np.testing.assert_array_equal(ctr(model, other), ctr(model, x))


@pytest.mark.parametrize("changes", [{}, SEARCH, NO_ATTENTION], ids=str)
def test_similarities_may_be_precomputed(changes: dict) -> None:
    model, x, data = ranker(**changes), ranker_inputs(40), item_data()
    known = precompute_similarity(data, x["item_row"], x["history_rows"], rows=16)
    embeddings = data.embeddings.astype("float32") / 127
    expected = np.einsum("bd,bld->bl", embeddings[x["item_row"]], embeddings[x["history_rows"]])
    np.testing.assert_allclose(known, expected, atol=1e-3)
    np.testing.assert_allclose(ctr(model, {**x, "similarity": expected}), ctr(model, x), atol=1e-5)
    assert not np.allclose(ctr(model, {**x, "similarity": -expected}), ctr(model, x), atol=1e-4)


def loss_of(model: CiUBM, x: dict, y: np.ndarray) -> float:
    model.compile(optimizer="adam")
    return float(model.evaluate(x, y, batch_size=len(y), verbose=0, return_dict=True)["loss"])


def cross_entropy(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def test_the_loss_is_of_the_click_of_content_and_of_the_tables() -> None:
    x = ranker_inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    plain = {"id_embedding_l2": 0.0, "content_loss_weight": 0.0}
    model = ranker(**plain)
    outputs = {name: numbers(values)[:, 0] for name, values in model(x).items()}
    base, content = cross_entropy(outputs["ctr"], y), cross_entropy(outputs["content_ctr"], y)
    assert loss_of(model, x, y) == pytest.approx(base, rel=1e-5)
    weighted = ranker(**{**plain, "content_loss_weight": 0.1})
    assert loss_of(weighted, x, y) == pytest.approx(base + 0.1 * content, rel=1e-5)
    held = ranker(**{**plain, "id_embedding_l2": 0.05})
    tables = [held.target_encoder.id_embedding, held.history_encoder.id_embedding, held.user_embedding]
    squares = sum(float(np.square(numbers(table.embeddings)).sum()) for table in tables)
    assert loss_of(held, x, y) == pytest.approx(base + 0.05 * squares, rel=1e-5)
    projected = ranker(**{**plain, "content_projection_l2": 0.05})
    kernel = numbers(projected.target_encoder.content_projection.kernel)
    lengths = np.linalg.norm(np.eye(len(kernel)) @ kernel, axis=1)  # of unit vectors in all directions
    assert loss_of(projected, x, y) == pytest.approx(base + 0.05 * float(np.mean(np.square(lengths))), rel=1e-5)


@pytest.mark.parametrize("kind", ["quotient_remainder", "two_hash"])
def test_small_tables_of_ids(kind: str) -> None:
    model = ranker(item_id_table=kind, user_id_table=kind, user_id_table_rows=2, id_embedding_l2=0.05)
    second = {"quotient_remainder": 3, "two_hash": 2}[kind]  # of five users
    assert [tuple(table.shape) for table in model.user_embedding.tables] == [(2, 8), (second, 8)]
    assert len(model.shared_row_tables()) == 6
    assert "item" not in model.vocabulary_tables()
    plain = ranker(item_id_table=kind, user_id_table=kind, user_id_table_rows=2, id_embedding_l2=0.0)
    x = ranker_inputs(8)
    squares = sum(float(np.square(numbers(table)).sum()) for table in model.shared_row_tables())
    loss = loss_of(plain, x, x["item_row"] % 2)
    assert loss_of(model, x, x["item_row"] % 2) == pytest.approx(loss + 0.05 * squares, rel=1e-4)


def test_tables_that_are_updated_by_rows_are_regularised_by_the_optimizer() -> None:
    assert ranker().rowwise_options() == {}
    model = ranker(id_embedding_update="lazy_adam", id_embedding_l2=0.05, id_embedding_learning_rate=2.0)
    options = model.rowwise_options()
    (pattern,) = options.pop("tables")
    paths = [one.path for one in model.trainable_variables if re.search(pattern, one.path)]
    expected = {"user_embedding", "item_embedding", "history_item_embedding"}
    assert {path.split("/")[-2] for path in paths} == expected
    assert options == {"table_update": "lazy_adam", "table_learning_rate": 2.0, "table_l2": 0.05}
    assert not model.losses
    assert ranker(id_embedding_update="rowwise_adagrad").rowwise_options()["table_learning_rate"] == 10


def test_the_loss_of_a_confident_mistake_has_a_gradient() -> None:
    """Computed from the logit: a probability that rounds to 1 would have none."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras computes it from the logits on TensorFlow alone")
    import tensorflow as tf

    model, x = ranker(), ranker_inputs()
    model.compile(optimizer="adam")
    model.head.logit.bias.assign([40.0])

    @tf.function
    def gradient() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, np.zeros(6, "float32"), model(x, training=True))
        return tape.gradient(loss, model.head.logit.bias.value)

    assert float(gradient()[0]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_embeddings_may_be_stored_as_floats(dtype: str) -> None:
    x, stored = ranker_inputs(), ranker()
    data = item_data()
    floats = ranker(replace(data, embeddings=(data.embeddings / 127).astype(dtype)))
    for own, other in zip(floats.trainable_variables, stored.trainable_variables, strict=True):
        own.assign(numbers(other))
    assert keras.backend.standardize_dtype(floats.item_table.embeddings.dtype) == dtype
    np.testing.assert_allclose(ctr(floats, x), ctr(stored, x), atol=1e-3)


def test_every_weight_of_a_ranker_is_trained() -> None:
    model, x = (
        ranker(context=(3,), interests=[*map(vars, ranker_config().interests), "din_attention"]),
        ranker_inputs(64),
    )
    x["context"] = np.arange(64)[:, None] % 3
    model.compile(optimizer="adam")
    y = (x["item_row"] % 2).astype("float32")
    found = gradients(model, lambda: model.compute_loss(x, y, model(x, training=True)))
    for variable, gradient in zip(model.trainable_variables, found, strict=True):
        assert gradient is not None, variable.path
        assert np.any(gradient != 0), variable.path


# -- each interest explains labels that nothing else can ---------------------------------------------------

ROWS, USERS, CLUSTERS = 4096, 64, 8


def only(*interests: str, **changes: object) -> dict:
    """Settings under which the target's own id, the user and the target's content are uninformative."""
    off = {"id_dropout": 0.0, "id_embedding_l2": 0.0, "content_loss_weight": 0.0, "use_recency": False}
    return {"interests": list(interests), "cross_layers": 0, "hidden": [32], **off, **changes}


def clustered_items(rng: np.random.Generator) -> tuple:
    """Items of clusters of like content."""
    from mim_keras.layers import ItemTableData

    cluster = np.arange(64) % CLUSTERS
    centres = np.eye(CLUSTERS, 16)[cluster] + 0.05 * rng.normal(size=(64, 16))
    embeddings = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype("float32")
    return ItemTableData.from_items(embeddings, np.ones(64, bool), [[]] * 64, np.arange(1, 65)), cluster


def rows_of_one_user(item: np.ndarray, history: np.ndarray) -> dict[str, np.ndarray]:
    x = {"item_row": item + 1, "history_rows": history + 1, "user_index": np.zeros(ROWS, int)}
    return {**x, "history_ages": np.zeros_like(history)}


def learned_auc(data: object, x: dict, y: np.ndarray, settings: dict) -> float:
    keras.utils.set_random_seed(4)
    model = ranker(data, **settings)  # type: ignore[arg-type]
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    half = ROWS // 2
    train, test = ({name: values[part] for name, values in x.items()} for part in (slice(half), slice(half, None)))
    model.fit(train, y[:half], batch_size=256, epochs=16, verbose=0)
    return auc(y[half:], ctr(model, test))


@pytest.mark.learns
def test_content_interests_explain_whether_the_history_holds_the_targets_cluster() -> None:
    """The label is whether the one relevant behaviour is of the target's cluster: neither side determines it alone."""
    rng = np.random.default_rng(1)
    data, cluster = clustered_items(rng)
    item, history = rng.integers(0, 64, ROWS), rng.integers(0, 64, (ROWS, 4))
    y = (cluster[history] == cluster[item][:, None]).any(axis=1).astype("float32")
    x = rows_of_one_user(item, history)
    nothing = learned_auc(data, x, y, only(use_ids=False))
    assert nothing < 0.6
    for name in ("sim_tier", "modal_attention"):
        assert learned_auc(data, x, y, only(name, use_ids=False)) > nothing + 0.15, name


@pytest.mark.learns
def test_content_attention_explains_what_the_similar_behaviour_is() -> None:
    """The label is the category of the one behaviour that looks like the target, which categories do not determine."""
    rng = np.random.default_rng(5)
    data, cluster = clustered_items(rng)
    is_first = rng.random(64) < 0.5
    attributes = np.concatenate([[0], 2 - is_first]).astype(np.int32)[:, None]
    data = replace(data, attributes=attributes, values=("", "a", "b"))
    item, history = rng.integers(0, 64, ROWS), rng.integers(0, 64, (ROWS, 6))
    history += (cluster[history] == cluster[item][:, None]) * (1 - 2 * (history % CLUSTERS == CLUSTERS - 1))
    position = rng.integers(0, 6, ROWS)
    history[np.arange(ROWS), position] = cluster[item] + CLUSTERS * rng.integers(0, 8, ROWS)
    y = is_first[history[np.arange(ROWS), position]].astype("float32")
    x = rows_of_one_user(item, history)
    pooled = learned_auc(data, x, y, only("mean_pooling", use_ids=False))
    for name in ("semantic_target_attention", "modal_attention"):
        assert learned_auc(data, x, y, only(name, use_ids=False)) > pooled + 0.1, name


@pytest.mark.learns
def test_id_interests_explain_which_items_go_together() -> None:
    """The label is whether the history holds the target's partner, by ids alone."""
    rng = np.random.default_rng(2)
    data, _ = clustered_items(rng)
    item, history = rng.integers(0, 16, ROWS), rng.integers(0, 16, (ROWS, 2))
    y = (history == (item ^ 1)[:, None]).any(axis=1).astype("float32")
    x = rows_of_one_user(item, history)
    nothing = learned_auc(data, x, y, only(use_content=False, id_dim=16))
    assert nothing < 0.6
    for name in ("mean_pooling", "target_attention", "din_attention"):
        assert learned_auc(data, x, y, only(name, use_content=False, id_dim=16)) > nothing + 0.1, name


@pytest.mark.learns
def test_recency_explains_whether_the_last_behaviour_counts() -> None:
    """The label is the kind of the newest behaviour, wherever it is."""
    rng = np.random.default_rng(3)
    data, cluster = clustered_items(rng)
    history, ages = rng.integers(0, 64, (ROWS, 4)), rng.permuted(np.tile([0, 10**6, 10**6, 10**6], (ROWS, 1)), axis=1)
    y = (cluster[history[np.arange(ROWS), ages.argmin(axis=1)]] < CLUSTERS // 2).astype("float32")
    x = {"item_row": np.ones(ROWS, int), "history_rows": history + 1, "history_ages": ages}
    x["user_index"] = np.zeros(ROWS, int)
    without = learned_auc(data, x, y, only("target_attention", use_content=False))
    with_ages = learned_auc(data, x, y, {**only("target_attention", use_content=False), "use_recency": True})
    assert with_ages > without + 0.1


def test_half_precision_scores_stay_close() -> None:
    from tests.mim_keras.backend import half_precision

    x, model = ranker_inputs(), ranker()
    expected = ctr(model, x)
    with half_precision():
        half = ranker()
    half.set_weights(model.get_weights())
    found = half(x)
    assert {keras.backend.standardize_dtype(value.dtype) for value in found.values()} == {"float32"}
    np.testing.assert_allclose(leaves(found)[1][:, 0], expected, atol=0.02)


def test_indices_out_of_range_are_unknown() -> None:
    model, inputs = ranker(context=(3, 2)), ranker_inputs()
    context = np.array([[1, 1]] * 6)
    unknown = ctr(model, inputs | {"context": context * 0})
    for other in (7, -1):
        np.testing.assert_array_equal(ctr(model, inputs | {"context": np.full((6, 2), other)}), unknown)
    with pytest.raises(ValueError, match=r"`context` must have shape \(batch, 2\); received \(6, 3\)"):
        model({**inputs, "context": np.ones((6, 3), int)})


@pytest.mark.parametrize("case", [("item_embedding", 6, 1), ("item_embedding", 1, 16), ("similarity", 6, 1)])
@pytest.mark.parametrize("split", [0, 4])
def test_optional_inputs_do_not_broadcast(case: tuple[str, int, int], split: int) -> None:
    name, *shape = case
    model = any_ranker(ranker_config(ensemble_split_dim=split))
    with pytest.raises(ValueError, match=f"`{name}` must have shape .* received"):
        model({**ranker_inputs(), name: np.ones(shape, "float32")})


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match="CiUBM reads an ItemTable; received ItemTableData"):
        CiUBM(ranker_config(), VocabularySizes(users=5), item_data())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="users counts row 0"):
        VocabularySizes(users=0)


def test_a_loaded_content_branch_releases_what_it_froze(tmp_path: Path) -> None:
    branch = ContentBranch(ranker())
    frozen = len(branch.trainable_variables)
    branch.save(tmp_path / "branch.keras")
    loaded = keras.saving.load_model(tmp_path / "branch.keras")
    assert len(loaded.trainable_variables) == frozen
    for one in (branch, loaded):
        one.release()
    assert len(loaded.ranker.trainable_variables) == len(branch.ranker.trainable_variables) > frozen


def test_interests_are_names_mappings_or_settings() -> None:
    mixed = ("mean_pooling", {"name": "sim_tier", "bins": 7}, Interest("modal_attention"))
    config = replace(ranker_config(), interests=mixed)
    assert config.interest("sim_tier") == Interest("sim_tier", bins=7)
    assert set(INTEREST_LAYERS) == set(INTERESTS)
    searched = replace(ranker_config(interests=["modal_attention"]), search_top_k=3)
    assert searched.without_interest("modal_attention").search_top_k == 0
