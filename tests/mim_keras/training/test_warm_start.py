"""A warm start carries over known rows by their keys, and all else by its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mim_keras.config import ConfigError
from mim_keras.layers import ItemTable, ItemTableData
from mim_keras.models import CiUBM, VocabularySizes
from mim_keras.training.warm_start import load_weights, save_weights
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers

D = 8


def ranker(users: list[str], items: list[str], categories: list[str], seed: int, **changes: object) -> tuple:
    """A model, and the keys of the rows of its tables."""
    import keras

    keras.utils.set_random_seed(seed)
    embeddings = np.random.default_rng(0).normal(size=(len(items), D)).astype(np.float32)
    names = [[categories[n % len(categories)]] for n in range(len(items))]
    data = ItemTableData.from_items(embeddings, np.ones(len(items), bool), names, np.arange(1, len(items) + 1))
    sizes = VocabularySizes(len(users) + 1)
    model = CiUBM(tiny.ranker_config(**changes), sizes, ItemTable.from_data(data))
    return model, {"attribute": ["(none)", *data.values[1:]], "item": ["", *items], "user": ["", *users]}


def test_rows_follow_their_keys(tmp_path: Path) -> None:
    old, old_keys = ranker(["a", "b", "c"], ["x", "y", "z"], ["mug", "lamp"], seed=1)
    new, new_keys = ranker(["c", "new", "a"], ["z", "y", "new"], ["lamp", "rug"], seed=2)
    fresh = numbers(new.target_encoder.attribute_embedding.embeddings)
    save_weights(old, old_keys, tmp_path)
    assert load_weights(new, new_keys, tmp_path) == {"attribute": 2, "item": 3, "user": 3}
    before, after = (numbers(model.user_embedding.embeddings) for model in (old, new))
    np.testing.assert_array_equal(after, before[[0, 3, 0, 1]])  # a new user starts as the unknown ones
    for encoder in ("target_encoder", "history_encoder"):
        before, after = (numbers(getattr(model, encoder).id_embedding.embeddings) for model in (old, new))
        np.testing.assert_array_equal(after, before[[0, 3, 2, 0]])
    before, after = (numbers(model.target_encoder.attribute_embedding.embeddings) for model in (old, new))
    np.testing.assert_array_equal(after, [*before[[0, old_keys["attribute"].index("lamp")]], fresh[2]])
    for path in ("logit", "denses"):
        one, other = getattr(old.head, path), getattr(new.head, path)
        one, other = (one[0], other[0]) if path == "denses" else (one, other)
        np.testing.assert_array_equal(numbers(other.kernel), numbers(one.kernel))


def test_the_same_data_give_the_same_scores(tmp_path: Path) -> None:
    old, keys = ranker(["a", "b"], ["x", "y"], ["mug"], seed=1)
    new, _ = ranker(["a", "b"], ["x", "y"], ["mug"], seed=2)
    inputs = {"item_row": np.array([1, 2]), "user_index": np.array([1, 2])}
    inputs |= {name: np.array([[0, 1], [2, 1]]) for name in ("history_rows", "history_ages")}
    assert np.any(numbers(new(inputs)["ctr"]) != numbers(old(inputs)["ctr"]))
    save_weights(old, keys, tmp_path)
    load_weights(new, keys, tmp_path)
    np.testing.assert_array_equal(numbers(new(inputs)["ctr"]), numbers(old(inputs)["ctr"]))


def test_weights_of_one_shape_are_told_apart_by_their_path(tmp_path: Path) -> None:
    old, keys = ranker(["a"], ["x"], ["mug"], seed=1)
    save_weights(old, keys, tmp_path)
    with np.load(tmp_path / "weights.npz") as values:
        names = set(values.files)
    assert "weight/interest_attention/attentions/0/query/kernel" in names
    assert not any("item_table" in name for name in names)
    new, _ = ranker(["a"], ["x"], ["mug"], seed=2, interests=[*map(vars, tiny.ranker_config().interests[::-1])])
    with pytest.raises(ConfigError, match=r"which differs in weight/interest_attention/attentions/\d"):
        load_weights(new, keys, tmp_path)


def test_another_model_cannot_start_from_it(tmp_path: Path) -> None:
    old, keys = ranker(["a"], ["x"], ["mug"], seed=1)
    with pytest.raises(ConfigError, match="holds none. Train once without"):
        load_weights(old, keys, tmp_path)
    save_weights(old, keys, tmp_path)
    other, other_keys = ranker(["a"], ["x"], ["mug"], seed=1, hidden=(5,))
    with pytest.raises(
        ConfigError, match=r"needs weights of the same model; received .*, which differs in weight/head"
    ):
        load_weights(other, other_keys, tmp_path)


@pytest.mark.parametrize(
    "change", [lambda keys: keys[1:], lambda keys: [*keys, "more"], lambda keys: [keys[0]] * len(keys)]
)
def test_keys_must_name_every_row_once(tmp_path: Path, change: Callable[[list[str]], list[str]]) -> None:
    old, keys = ranker(["a", "b"], ["x", "y"], ["mug"], seed=1)
    new, _ = ranker(["a", "b"], ["x", "y"], ["mug"], seed=2)
    wrong = keys | {"item": change(keys["item"])}
    with pytest.raises(ValueError, match=r"keys\['item'\] must hold one distinct key for each of the 3 rows"):
        save_weights(old, wrong, tmp_path)
    save_weights(old, keys, tmp_path)
    before = [numbers(variable) for variable in new.trainable_variables]
    with pytest.raises(ValueError, match=r"keys\['item'\] must hold one distinct key"):
        load_weights(new, wrong, tmp_path)
    for variable, value in zip(new.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numbers(variable), value)


def with_words(words: list[list[str]], seed: int) -> tuple:
    """A model of items with a category and words, that compares both, and the keys of its rows."""
    import keras

    keras.utils.set_random_seed(seed)
    items = len(words)
    embeddings = np.random.default_rng(0).normal(size=(items, D)).astype(np.float32)
    attributes = {"text_words": words, "brand": [["lamp"]] * items}
    data = ItemTableData.from_items(embeddings, np.ones(items, bool), [["lamp"]] * items, np.arange(items), attributes)
    interests = ({"name": "mean_pooling"}, {"name": "attribute_match"})
    model = CiUBM(tiny.ranker_config(interests=interests), VocabularySizes(2), ItemTable.from_data(data))
    item = ["", *(f"item {n}" for n in range(1, items))]
    return model, {"attribute": ["(none)", *data.values[1:]], "item": item, "user": ["", "a"]}


def test_learned_words_follow_their_names(tmp_path: Path) -> None:
    """Other words, in other places, fewer for each item, and one that is a category and a brand too."""
    old, old_keys = with_words([["ivory", "lamp"], ["oak"]], seed=1)
    new, new_keys = with_words([["oak"], ["ash"], ["lamp"]], seed=2)
    fresh = numbers(new.target_encoder.attribute_embedding.embeddings)
    save_weights(old, old_keys, tmp_path)
    load_weights(new, new_keys, tmp_path)
    before, after = (numbers(model.target_encoder.attribute_embedding.embeddings) for model in (old, new))
    for row, key in enumerate(new_keys["attribute"]):
        known = key in old_keys["attribute"]
        np.testing.assert_array_equal(after[row], before[old_keys["attribute"].index(key)] if known else fresh[row])
    assert new_keys["attribute"].count("text_words: lamp") == 1
    assert "text_words: ash" not in old_keys["attribute"]


def test_inputs_must_stand_in_the_same_order(tmp_path: Path) -> None:
    old, keys = ranker(["a"], ["x"], ["mug"], seed=1)
    save_weights(old, keys, tmp_path, ["feature device", "feature country"])
    load_weights(old, keys, tmp_path, ["feature device", "feature country"])
    with pytest.raises(ConfigError, match="received feature country, feature device where it has feature device"):
        load_weights(old, keys, tmp_path, ["feature country", "feature device"])
    with pytest.raises(ConfigError, match="received none where it has feature country"):
        load_weights(old, keys, tmp_path, ["feature device"])


def test_small_tables_cannot_be_carried_over(tmp_path: Path) -> None:
    model, keys = ranker(["a"], ["x"], ["mug"], seed=1, user_id_table="two_hash")
    save_weights(model, keys, tmp_path)
    with pytest.raises(ConfigError, match="needs a row for each id.*Set both to full"):
        load_weights(model, keys, tmp_path)


def test_tables_that_are_updated_by_rows_are_carried_over(tmp_path: Path) -> None:
    dense, keys = ranker(["a", "b"], ["x"], ["mug"], seed=1)
    by_rows, _ = ranker(["a", "b"], ["x"], ["mug"], seed=2, id_embedding_update="rowwise_adagrad")
    save_weights(dense, keys, tmp_path)
    load_weights(by_rows, keys, tmp_path)
    before, after = (numbers(model.user_embedding.embeddings) for model in (dense, by_rows))
    np.testing.assert_array_equal(after, before)
