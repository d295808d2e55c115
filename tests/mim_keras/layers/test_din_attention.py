"""DIN's attention against the MLP over all four parts that it factors."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.layers import DINAttention
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import ATTENTION

pytestmark = pytest.mark.any_backend


def test_it_is_an_mlp_over_query_key_difference_and_product() -> None:
    layer = DINAttention(4, 5)
    layer(**ATTENTION)
    alpha = np.array([[0.0, 0.1, 0.2, 0.3, -0.4]], "float32")
    layer.activation.alpha.assign(alpha)
    layer.output_dense.bias.assign([0.7])
    target, history, mask = ATTENTION["target"], ATTENTION["history"], ATTENTION["history_mask"]
    q, k = target @ numbers(layer.query.kernel), history @ numbers(layer.key.kernel)
    of_query, of_key = numbers(layer.target_dense.kernel), numbers(layer.key_kernel)
    # q A + k C + (q ∘ k) D is [q; k; q − k; q ∘ k] W with the weights of the difference zero
    kernel = np.concatenate([of_query, of_key, 0 * of_key, numbers(layer.interaction_kernel)])
    q = np.repeat(q[:, None], k.shape[1], axis=1)
    x = np.concatenate([q, k, q - k, q * k], -1) @ kernel
    x = np.where(x > 0, x, alpha[0] * x) @ numbers(layer.output_dense.kernel)[:, 0] + 0.7
    np.testing.assert_allclose(numbers(layer(**ATTENTION)), np.einsum("bl,bld->bd", x * mask, k), rtol=1e-4, atol=1e-5)
