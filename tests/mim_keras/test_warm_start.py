"""A warm start carries over what is known, by what it stands for, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import ConfigError, preset
from mim_keras.item_table import ItemColumns
from mim_keras.training.warm_start import load_weights, save_weights

plain = keras.ops.convert_to_numpy
D = 8


def ranker(users: list[str], items: list[str], categories: list[str], seed: int, **changes: object) -> tuple:
    """A model, and what the rows of its tables stand for."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(items), D)).astype(np.float32)
    names = [[categories[n % len(categories)]] for n in range(len(items))]
    columns = ItemColumns.assemble(vectors, np.ones(len(items), bool), names, np.arange(1, len(items) + 1))
    model = CiUBM(replace(preset("tiny").ciubm, **changes), RankerShape(len(users) + 1), columns)
    one = {"item_row": np.array([1]), "user_index": np.array([1])}
    model({**one, **{name: np.ones((1, 3), int) for name in ("history_rows", "history_ages")}})
    learned = ["", *items]
    keys = {"item": learned, "user": ["", *users]}
    return model, {"category": list(columns.category_names), **keys}


def test_rows_follow_what_they_stand_for(tmp_path: Path) -> None:
    old, old_keys = ranker(["a", "b", "c"], ["x", "y", "z"], ["mug", "lamp"], seed=1)
    new, new_keys = ranker(["c", "new", "a"], ["z", "y", "new"], ["lamp", "rug"], seed=2)
    fresh = plain(new.category_projection.kernel)
    save_weights(old, old_keys, tmp_path)
    assert load_weights(new, new_keys, tmp_path) == {"category": 1, "item": 3, "user": 3}
    before, after = (plain(model.user_embedding.embeddings) for model in (old, new))
    np.testing.assert_array_equal(after, before[[0, 3, 0, 1]])  # a new user begins as all the unknown ones
    before, after = (plain(model.id_embedding.embeddings) for model in (old, new))
    np.testing.assert_array_equal(after, before[[0, 3, 2, 0]])
    before, after = (plain(model.category_projection.kernel) for model in (old, new))
    np.testing.assert_array_equal(after, [before[old_keys["category"].index("lamp")], fresh[1]])
    np.testing.assert_array_equal(plain(new.out.kernel), plain(old.out.kernel))
    np.testing.assert_array_equal(plain(new.hidden[0].kernel), plain(old.hidden[0].kernel))


def test_the_same_data_give_the_same_scores(tmp_path: Path) -> None:
    old, keys = ranker(["a", "b"], ["x", "y"], ["mug"], seed=1)
    new, _ = ranker(["a", "b"], ["x", "y"], ["mug"], seed=2)
    inputs = {"item_row": np.array([1, 2]), "user_index": np.array([1, 2])}
    inputs |= {name: np.array([[0, 1], [2, 1]]) for name in ("history_rows", "history_ages")}
    assert np.any(plain(new(inputs)["ctr"]) != plain(old(inputs)["ctr"]))
    save_weights(old, keys, tmp_path)
    load_weights(new, keys, tmp_path)
    np.testing.assert_array_equal(plain(new(inputs)["ctr"]), plain(old(inputs)["ctr"]))


def test_another_model_cannot_start_from_it(tmp_path: Path) -> None:
    old, keys = ranker(["a"], ["x"], ["mug"], seed=1)
    with pytest.raises(ConfigError, match="holds none. Train once without"):
        load_weights(old, keys, tmp_path)
    save_weights(old, keys, tmp_path)
    other, other_keys = ranker(["a"], ["x"], ["mug"], seed=1, hidden=(5,))
    with pytest.raises(ConfigError, match="needs weights of the same model; .* other shapes or tables"):
        load_weights(other, other_keys, tmp_path)
