"""The target: masked ids, given embeddings, items without content."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import TargetEncoder
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import encoder_parts

pytestmark = pytest.mark.any_backend
ROW = np.array([1, 4, 6])  # item 4 has no embedding


def test_against_numpy() -> None:
    layer, data = TargetEncoder(**encoder_parts()), tiny.item_data()
    found = layer(ROW)
    ids = numbers(layer.id_embedding.embeddings)
    np.testing.assert_allclose(numbers(found.id_embedding), ids[data.id_index[ROW]])
    content = data.embeddings[ROW] / 127.0 @ numbers(layer.content_projection.kernel)
    np.testing.assert_allclose(numbers(found.content), content, atol=1e-5)
    assert numbers(found.has_content).tolist() == [True, False, True]
    assert not numbers(found.content)[1].any()
    masked = layer(ROW, drop_id=np.array([True, False, False]))
    np.testing.assert_array_equal(numbers(masked.id_embedding)[0], ids[0])
    np.testing.assert_array_equal(numbers(masked.id_embedding)[1:], numbers(found.id_embedding)[1:])


def test_a_given_embedding_replaces_the_tables() -> None:
    layer = TargetEncoder(**encoder_parts())
    given = np.eye(3, tiny.D, dtype="float32")
    given[2] = 0
    kernel, own = numbers(layer(ROW).content), numbers(layer.content_projection.kernel)
    found = layer(ROW, item_embedding=given)  # a zero one does not count
    np.testing.assert_allclose(numbers(found.content), [own[0], own[1], kernel[2]], atol=1e-6)
    assert numbers(found.has_content).tolist() == [True, True, True]
    found = layer(ROW, item_embedding=given, use_item_embedding=np.array([False, False, True]))
    np.testing.assert_allclose(numbers(found.content), [kernel[0], kernel[1] * 0, own[0] * 0], atol=1e-6)
    assert numbers(found.has_content).tolist() == [True, False, False]
