"""The losses against numbers worked out by hand, NumPy and keras-hub."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_hub.src.models.siglip.siglip_loss import SigLIPLoss as KerasHubSigLIPLoss

from mim_keras.losses import CLIPLoss, InfoNCE, SigLIPLoss, mask_logits
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend
seeds = st.integers(0, 2**31)
often = settings(max_examples=25, deadline=None)
B, N = 3, 7


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_info_nce_by_hand() -> None:
    logits = np.log(np.array([[3.0, 1.0, 1.0], [2.0, 6.0, 2.0]], "float32"))
    expected = -(np.log(3 / 5) + np.log(6 / 10)) / 2
    assert float(InfoNCE()(np.array([0, 1]), logits)) == pytest.approx(expected, rel=1e-5)
    masked = mask_logits(logits, np.array([[False, True, False], [True, False, False]]))
    expected = -(np.log(3 / 4) + np.log(6 / 8)) / 2
    assert float(InfoNCE()(np.array([[0], [1]]), masked)) == pytest.approx(expected, rel=1e-5)


@given(seeds, st.floats(-20, 20))
@often
def test_info_nce_depends_neither_on_order_nor_on_a_shift(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits, positive = rng.normal(scale=3, size=(B, N)).astype("float32"), rng.integers(0, N, B)
    mask = rng.random((B, N)) < 0.3
    mask[np.arange(B), positive] = False
    loss = InfoNCE()
    found, order = float(loss(positive, mask_logits(logits, mask))), rng.permutation(N)
    column = np.argsort(order)[positive]
    shuffled = mask_logits(logits[:, order], mask[:, order])
    assert float(loss(column, shuffled)) == pytest.approx(found, abs=1e-4)
    assert float(loss(positive, mask_logits(logits + np.float32(shift), mask))) == pytest.approx(found, abs=1e-3)
    assert found >= -1e-6
    assert float(loss(positive, logits)) >= found - 1e-5  # more candidates never make it easier


@given(seeds)
@often
def test_clip_by_numpy_in_any_order_and_both_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, text = unit(rng, N), unit(rng, N)
    mask = (rng.random(N) < 0.7).astype("float32")
    logits, keep = 10 * image @ text.T, mask > 0
    loss, found = CLIPLoss(), float(CLIPLoss()(mask, logits))
    s = logits[keep][:, keep].astype(float)
    expected = 0.0
    if keep.any():
        rows, columns = np.log(np.exp(s).sum(1)) - np.diag(s), np.log(np.exp(s).sum(0)) - np.diag(s)
        expected = 0.5 * rows.mean() + 0.5 * columns.mean()
    assert found == pytest.approx(expected, abs=1e-4)
    order = rng.permutation(N)
    assert float(loss(mask, logits.T)) == pytest.approx(found, abs=1e-4)
    assert float(loss(mask[order], logits[order][:, order])) == pytest.approx(found, abs=1e-4)


def test_siglip_is_keras_hubs_where_every_row_has_both(rng: np.random.Generator) -> None:
    logits = 7.0 * unit(rng, 5) @ unit(rng, 5).T - 2.0
    labels = 2 * np.eye(5, dtype="float32") - 1
    expected = float(np.mean(numbers(KerasHubSigLIPLoss(reduction=None)(labels, logits))))
    assert float(SigLIPLoss()(np.ones(5), logits)) == pytest.approx(expected, rel=1e-5)
    mask = np.array([1, 0, 1, 1, 0], "float32")
    keep = mask > 0
    alone = float(SigLIPLoss()(np.ones(3), logits[keep][:, keep]))
    assert float(SigLIPLoss()(mask, logits)) == pytest.approx(alone, rel=1e-5)
    assert float(SigLIPLoss()(np.zeros(5), logits)) == 0
