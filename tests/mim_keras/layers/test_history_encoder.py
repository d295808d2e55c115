"""What a history is before any target is known, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.layers import HistoryEncoder
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import encoder_parts, history_encoder

pytestmark = pytest.mark.any_backend
ROWS = np.array([[1, 4, 0], [2, 5, 3], [0, 0, 0]])  # item 4 has no embedding
AGES = np.array([[9, 3, 0]] * 3)


def reference(layer: HistoryEncoder, rows: np.ndarray) -> np.ndarray:
    data = tiny.item_data()
    return np.concatenate(
        [
            data.embeddings[rows] / 127.0 @ numbers(layer.content_projection.kernel),
            numbers(layer.id_embedding.embeddings)[data.id_index[rows]],
            (numbers(layer.attribute_embedding.embeddings) * (np.arange(3) > 0)[:, None])[
                data.attributes[rows][..., 0]
            ],
        ],
        axis=-1,
    )


def test_behaviours_masks_and_means_against_numpy() -> None:
    layer, has = history_encoder(), tiny.item_data().has_embedding
    found = layer(ROWS, AGES)
    expected = reference(layer, ROWS)
    np.testing.assert_allclose(numbers(found.behaviours), expected, atol=1e-5)
    mask = ROWS > 0
    np.testing.assert_array_equal(numbers(found.mask), mask)
    np.testing.assert_array_equal(numbers(found.content_mask), mask & has[ROWS])
    assert not np.array_equal(mask, mask & has[ROWS])
    for row in range(2):
        np.testing.assert_allclose(numbers(found.mean)[row], expected[row][mask[row], 5:].mean(axis=0), atol=1e-5)
        # behaviours without content do not count in the mean of the content
        with_content = mask[row] & has[ROWS[row]]
        content_mean = expected[row][with_content, :5].mean(axis=0)
        np.testing.assert_allclose(numbers(found.content_mean)[row], content_mean, atol=1e-5)
    assert not numbers(found.mean)[2].any()
    assert not numbers(found.content_mean)[2].any()
    np.testing.assert_allclose(numbers(found.embedding), tiny.item_data().embeddings[ROWS] / 127.0, atol=1e-6)
    assert layer(ROWS, AGES, similarity_known=True).embedding is None


@pytest.mark.parametrize("rows", [ROWS, np.tile(ROWS, (5, 1))], ids=["rows are embedded", "the table is embedded"])
def test_the_table_or_the_rows_are_embedded_to_the_same_result(rows: np.ndarray) -> None:
    layer = history_encoder()
    assert (layer.item_table.num_rows <= rows.size) == (len(rows) > 3)
    found = numbers(layer(rows, np.zeros_like(rows)).behaviours)
    np.testing.assert_allclose(found, reference(layer, rows), atol=1e-5)


def test_an_age_falls_in_the_bucket_of_its_logarithm() -> None:
    layer = history_encoder()
    ages = np.array([[0, 1, 2, 3, 7, 8, 3 << 29, -5]])
    layer(np.ones_like(ages), ages)
    layer.recency_embedding.embeddings.assign(np.repeat(np.arange(32.0)[:, None], 2, axis=1))
    found = numbers(layer(np.ones_like(ages), ages).recency)[0, :, 0]
    np.testing.assert_array_equal(found, [0, 1, 1, 2, 3, 3, 30, 0])
    oldest = np.array([[2**31 - 1]])
    last = 31 if keras.backend.backend() == "tensorflow" else 30  # JAX rounds the logarithm of 2^31 down
    assert numbers(layer(np.ones_like(oldest), oldest).recency)[0, 0, 0] == last
    with pytest.raises(ValueError, match=r"since ciubm\.use_recency is true; received None\. Give them"):
        layer(ROWS)


def test_without_content_and_ids() -> None:
    parts = encoder_parts()
    found = HistoryEncoder(parts["item_table"], parts["attribute_embedding"])(ROWS)
    assert found.behaviours.shape == (3, 3, 3)
    assert (found.recency, found.content_mask, found.content_mean, found.embedding) == (None,) * 4
