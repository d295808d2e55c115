"""Mean pooling by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import EncodedTarget, MeanPooling
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import ENCODED, TARGET

pytestmark = pytest.mark.any_backend


def test_by_hand() -> None:
    found = MeanPooling()(TARGET, ENCODED)
    product = TARGET.id_embedding * ENCODED.mean[:, :4]
    expected = np.concatenate([product, product.sum(axis=1, keepdims=True)], axis=1)
    np.testing.assert_allclose(numbers(found.ids), expected, rtol=1e-5)
    expected = np.concatenate([ENCODED.content_mean, TARGET.content * ENCODED.content_mean], axis=1)
    np.testing.assert_allclose(numbers(found.content), expected, rtol=1e-5)
    ids_only = MeanPooling()(EncodedTarget(TARGET.features, TARGET.id_embedding), ENCODED)
    assert ids_only.content is None
