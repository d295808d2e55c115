"""The item table: dtypes, splitting, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mim_keras.config import ConfigError
from mim_keras.layers import ItemTable, ItemTableData
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend
SPLIT = 6


def test_the_embedding_of_an_item_without_one_is_zero() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.integers(-40, 41, (6, 8)).astype(np.int8)
    has = np.array([True, False, True, True, False, True])
    found = ItemTableData.from_items(embeddings, has, [[]] * 6, np.arange(6))
    np.testing.assert_array_equal(found.embeddings[1:][has], embeddings[has])
    assert not found.embeddings[1:][~has].any()
    assert found.embeddings.dtype == np.int8
    assert not found.embeddings[0].any()
    assert found.has_embedding.tolist() == [False, *has]


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_embeddings_are_read_in_their_scale(dtype: str) -> None:
    table = ItemTable.from_data(tiny.item_data(dtype))
    found = numbers(table(np.array([[1, 4], [0, 2]])).embedding)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), [[1, 0], [0, 1]], atol=0.02)
    np.testing.assert_allclose(found, tiny.item_data("float32").embeddings[[[1, 4], [0, 2]]], atol=5e-3)
    np.testing.assert_array_equal(numbers(table.all_embeddings())[[1, 2]], found[[0, 1], [0, 1]])
    assert not table.trainable_variables


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_the_parts_of_an_embedding_are_l2_normalized(dtype: str) -> None:
    data = tiny.item_data(dtype)
    embeddings = data.embeddings.copy()
    embeddings[5, :SPLIT] = 0  # the first part of this item is missing
    first, second = replace(data, embeddings=embeddings).split_dims(SPLIT)
    assert (first.embeddings.shape[1], second.embeddings.shape[1]) == (SPLIT, tiny.D - SPLIT)
    for part, given in ((first, embeddings[:, :SPLIT]), (second, embeddings[:, SPLIT:])):
        assert part.embeddings.dtype == np.float16
        norm = np.linalg.norm(part.embeddings.astype(float) * part.scale, axis=1)
        np.testing.assert_allclose(norm, part.has_embedding, atol=0.001)
        dot = np.einsum("id,id->i", given.astype(float), part.embeddings.astype(float))
        norms = np.linalg.norm(given.astype(float), axis=1) * np.linalg.norm(part.embeddings.astype(float), axis=1)
        np.testing.assert_allclose(dot, norms, rtol=2e-3)
    assert (first.has_embedding[5], second.has_embedding[5]) == (False, True)
    for dim in (0, tiny.D):
        with pytest.raises(ConfigError, match=rf"is inside the embedding; received '{dim} of {tiny.D}'"):
            data.split_dims(dim)


def test_data_of_another_size_are_refused() -> None:
    table = ItemTable.from_data(tiny.item_data())
    with pytest.raises(ValueError, match=r"\(13, 16, 3, \(1,\), 'int8'\); received \(13, 6, 3, .*Make a table"):
        table.set_data(tiny.item_data().split_dims(SPLIT)[0])


def test_data_of_another_dtype_or_with_unknown_ids_are_refused() -> None:
    table = ItemTable.from_data(tiny.item_data())
    with pytest.raises(ValueError, match="have its .*dtype.*float32.* Make a table of these data"):
        table.set_data(tiny.item_data("float32"))
    data = tiny.item_data()
    with pytest.raises(ValueError, match="id_index must be below num_ids=9; received 800"):
        table.set_data(replace(data, id_index=data.id_index * 100))
