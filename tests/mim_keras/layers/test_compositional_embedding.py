"""Two small tables tell ids apart."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.layers import CompositionalEmbedding
from mim_keras.layers.embedding import TableNormal, float32_compositional, float32_embedding
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend


def test_quotient_and_remainder_by_hand() -> None:
    layer = CompositionalEmbedding(10, 1, rows=4)
    layer.build()
    assert [tuple(table.shape) for table in layer.tables] == [(4, 1), (3, 1)]
    layer.tables[0].assign([[0.0], [1.0], [2.0], [3.0]])
    layer.tables[1].assign([[0.0], [10.0], [20.0]])
    found = numbers(layer(np.arange(10)))[:, 0]
    assert found.tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21]


def places(ids: np.ndarray, rows: int) -> list[tuple[int, int]]:
    """The two rows of each id, by two hashes."""
    layer = CompositionalEmbedding(len(ids), 2, rows, "two_hash")
    layer.build()
    layer.tables[0].assign(np.stack([np.arange(rows), np.zeros(rows)], axis=1))
    layer.tables[1].assign(np.stack([np.zeros(rows), np.arange(rows)], axis=1))
    return [tuple(pair) for pair in numbers(layer(ids)).astype(int).tolist()]


def test_two_hashes_spread_ids_and_rarely_collide_together() -> None:
    ids, rows = np.arange(20_000), 1_000
    found = places(ids, rows)
    for table in zip(*found, strict=True):
        counts = np.bincount(table, minlength=rows)
        assert counts.min() > 0
        assert counts.std() < 1.5 * np.sqrt(20)  # as of a random choice
    expected = len(ids) ** 2 / (2 * rows**2)
    assert len(ids) - len(set(found)) < 1.3 * expected
    assert found == places(ids, rows)


def test_a_sum_has_the_spread_of_one_row() -> None:
    keras.utils.set_random_seed(1)
    layer = float32_compositional(5_000, 16, "ids", ("two_hash", 2_500))
    assert numbers(layer(np.arange(5_000))).std() == pytest.approx(0.05, rel=0.05)
    assert not np.any(numbers(layer.tables[0]) == numbers(layer.tables[1]))


def test_values_of_an_initialised_table_are_those_of_keras() -> None:
    made = [kind(stddev=0.05, seed=3)((5, 4)) for kind in (TableNormal, keras.initializers.RandomNormal)]
    np.testing.assert_array_equal(*map(numbers, made))
    assert isinstance(float32_embedding(3, 2, "table").embeddings_initializer, TableNormal)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="sizes of 1 or more .* received num_ids=10, output_dim=4, rows=0"):
        CompositionalEmbedding(10, 4, 0)
    with pytest.raises(ValueError, match="a method of quotient_remainder, two_hash; .* method='hash'"):
        CompositionalEmbedding(10, 4, 3, "hash")
