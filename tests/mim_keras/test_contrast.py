"""The contrastive losses against numbers worked out by hand, and who is no fair negative."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mim_keras.config import CsftConfig, preset
from mim_keras.contrast.info_nce import alignment_loss, info_nce
from mim_keras.contrast.negative_queue import EMPTY, NegativeQueue
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder


def test_info_nce_by_hand() -> None:
    logits = np.log(np.array([[3.0, 1.0, 1.0], [2.0, 6.0, 2.0]], "float32"))
    expected = -(np.log(3 / 5) + np.log(6 / 10)) / 2
    assert float(info_nce(logits, np.array([0, 1]))) == pytest.approx(expected, rel=1e-5)


def test_blocked_candidates_leave_the_sum_and_the_positive_stays() -> None:
    logits = np.log(np.array([[3.0, 1.0, 100.0]], "float32"))
    blocked = np.array([[True, False, True]])
    assert float(info_nce(logits, np.array([0]), blocked)) == pytest.approx(-np.log(3 / 4), rel=1e-5)


def test_weights_leave_queries_out() -> None:
    logits = np.log(np.array([[3.0, 1.0], [1.0, 7.0]], "float32"))
    assert float(info_nce(logits, np.array([0, 1]), weights=np.array([0.0, 1.0]))) == pytest.approx(
        -np.log(7 / 8), rel=1e-5
    )
    assert float(info_nce(logits, np.array([0, 1]), weights=np.zeros(2))) == 0.0


def test_alignment_by_numpy_ignores_rows_without_both(rng: np.random.Generator) -> None:
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 4, 3)))
    both = np.array([1, 1, 0, 1], "float32")
    keep = both > 0
    s = image[keep] @ text[keep].T * 5
    own = np.diag(s)
    expected = 0.5 * np.mean(np.log(np.exp(s).sum(1)) - own) + 0.5 * np.mean(np.log(np.exp(s).sum(0)) - own)
    loss = alignment_loss(image.astype("float32"), text.astype("float32"), both, 5.0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_queue_keeps_the_latest_in_order_over_its_edge() -> None:
    queue = NegativeQueue(5, 2)
    queue.build()
    assert np.all(queue.rows.numpy() == EMPTY)
    for start in (0, 3, 6):
        rows = np.arange(start, start + 3)
        queue.push(np.stack([rows, -rows], 1).astype("float32"), rows)
    # pushed 0..8 into five places: 5..8 and 4 are left, each where its number falls modulo five
    np.testing.assert_array_equal(queue.rows.numpy(), [5, 6, 7, 8, 4])
    np.testing.assert_array_equal(queue.vectors.numpy()[:, 0], [5, 6, 7, 8, 4])
    assert int(queue.next.numpy()) == 4


@pytest.fixture
def csft() -> Csft:
    config = preset("tiny").encoder
    encoder = ItemEncoder(config, 50)
    encoder.build()
    settings = CsftConfig(queue_size=4, log_q=False, align_weight=0.0, modality_dropout=0.0, temperature=1.0)
    return Csft(encoder, settings, np.zeros(10, "float32"))


def test_unfair_candidates(csft: Csft) -> None:
    query_row, item_row = np.array([7, 7, 8]), np.array([1, 2, 1])
    candidates = np.array([1, 2, 1, EMPTY, 7, 9])
    unfair = keras.ops.convert_to_numpy(csft._unfair(query_row, item_row, candidates))
    # query 7 led to 1 and 2; query 8 led to 1; 7 is a candidate itself; the fourth place is empty
    np.testing.assert_array_equal(
        unfair,
        [
            [True, True, True, True, True, False],
            [True, True, True, True, True, False],
            [True, False, True, True, False, False],
        ],
    )


def test_loss_counts_the_queue_and_pushes_after(csft: Csft) -> None:
    z = np.eye(16, dtype="float32")
    y_pred = {"query": {"joint": z[:2]}, "item": {"joint": z[:2], "image": z[:2], "text": z[:2]}}
    x = {"query_row": np.array([8, 9]), "item_row": np.array([1, 2])}
    first = float(csft.compute_loss(x, y_pred=y_pred, training=True))
    assert first == pytest.approx(np.log(np.e + 1) - 1, rel=1e-5)  # one in-batch negative at cosine 0
    np.testing.assert_array_equal(csft.queue.rows.numpy()[:2], [1, 2])
    x = {"query_row": np.array([6, 7]), "item_row": np.array([3, 4])}
    second = float(csft.compute_loss(x, y_pred=y_pred, training=False))
    # now the queue holds rows 1 and 2: one at cosine 1, one at 0, beside the in-batch negative
    assert second == pytest.approx(np.log(2 * np.e + 2) - 1, rel=1e-5)
