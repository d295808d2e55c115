"""The contrastive losses against numbers worked out by hand, and who is no fair negative."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_hub.src.models.siglip.siglip_loss import SigLIPLoss

from mim_keras.config import ContrastTerm, CsftConfig, preset
from mim_keras.contrast.candidates import positives_of, unfair
from mim_keras.contrast.info_nce import alignment_loss, info_nce, sigmoid_alignment_loss
from mim_keras.contrast.items_of_keys import ABSENT, ItemsOfKeys
from mim_keras.contrast.negative_queue import EMPTY, NegativeQueue
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader

pytestmark = pytest.mark.any_backend


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


def test_sigmoid_alignment_is_keras_hubs_where_every_row_has_both(rng: np.random.Generator) -> None:
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 5, 3)).astype("float32"))
    logits = image @ text.T * 7.0 - 2.0
    expected = np.mean(
        keras.ops.convert_to_numpy(SigLIPLoss(reduction=None)(2 * np.eye(5, dtype="float32") - 1, logits))
    )
    assert float(sigmoid_alignment_loss(image, text, np.ones(5), 7.0, -2.0)) == pytest.approx(expected, rel=1e-5)
    both = np.array([1, 0, 1, 1, 0], "float32")
    keep = both > 0
    alone = float(sigmoid_alignment_loss(image[keep], text[keep], np.ones(3), 7.0, -2.0))
    assert float(sigmoid_alignment_loss(image, text, both, 7.0, -2.0)) == pytest.approx(alone, rel=1e-5)


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


def csft(levels: str = "one", query_items: int = 1, **changes: object) -> Csft:
    config = preset("tiny").encoder
    encoder = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
    encoder.build()
    plain = {"queue_size": 4, "log_q": False, "align_weight": 0.0, "modality_dropout": 0.0, "temperature": 1.0}
    settings = CsftConfig(levels=levels, **{**plain, **changes})  # type: ignore[arg-type]
    return Csft(encoder, settings, np.zeros(20, "float32"), query_items=query_items)


def test_unfair_candidates() -> None:
    query_rows, item_row, key = np.array([[7], [7], [8]]), np.array([1, 2, 1]), np.array([0, 0, 1])
    candidates = np.array([1, 2, 1, EMPTY, 7, 9])
    found = keras.ops.convert_to_numpy(unfair(query_rows, candidates, 20, (key, item_row, key)))
    # query 7 led to 1 and 2; query 8 led to 1; 7 is a candidate itself; the fourth place is empty
    expected = [
        [True, True, True, True, True, False],
        [True, True, True, True, True, False],
        [True, False, True, True, False, False],
    ]
    np.testing.assert_array_equal(found, expected)


def test_unfair_candidates_of_many_against_every_comparison(rng: np.random.Generator) -> None:
    batch, places, rows = 40, 60, 25
    query_rows = rng.integers(-1, rows, (batch, 5))
    item_row, key = rng.integers(0, rows, batch), rng.integers(0, 12, batch)
    candidates = rng.integers(-1, rows, places)
    found = keras.ops.convert_to_numpy(unfair(query_rows, candidates, rows, (key, item_row, key)))
    for b in range(batch):
        own = {*query_rows[b], *item_row[key == key[b]], EMPTY}
        np.testing.assert_array_equal(found[b], [row in own for row in candidates])


def test_nothing_of_a_history_is_its_negative() -> None:
    query_rows = np.array([[ABSENT, 4, 5]])
    pairs = (np.array([0]), np.array([1]), np.array([0]))
    found = unfair(query_rows, np.array([4, 5, 6]), 20, pairs)
    np.testing.assert_array_equal(found, [[True, True, False]])


def test_what_a_key_is_known_to_like(rng: np.random.Generator) -> None:
    key, item_row = rng.integers(0, 9, 70), rng.integers(0, 30, 70)
    item_row[1], key[1] = item_row[0], key[0]  # the same pair twice
    key[key == 4] = 5  # a key without any
    known = ItemsOfKeys.of(key, item_row)
    assert known.rows.shape == (len({*zip(key.tolist(), item_row.tolist(), strict=True)}),)
    look_up = positives_of(*map(keras.ops.convert_to_tensor, (known.offsets, known.rows)), known.most)
    found = keras.ops.convert_to_numpy(look_up(np.arange(9)))
    for one in range(9):
        assert found[one][found[one] != ABSENT].tolist() == sorted({*item_row[key == one].tolist()})
    asked = rng.integers(-1, 40, (9, 6))
    holds = known.holds(np.arange(9), asked)
    for one in range(9):
        assert holds[one].tolist() == [row in {*item_row[key == one].tolist()} for row in asked[one]]
    with pytest.raises(ValueError, match=r"keys and rows are 0 or more; received \(-1, 3\)"):
        ItemsOfKeys.of(np.array([-1]), np.array([3]))


def test_log_q_takes_popularity_out_by_numpy(rng: np.random.Generator) -> None:
    share = rng.uniform(0.001, 0.2, 20)
    model = csft(terms=(ContrastTerm(pools=("batch", "time", "hard")),), log_q=True)
    model = Csft(model.encoder, model.config, np.log(share).astype("float32"))
    query, item, queued, hard = rng.normal(size=(4, 4, 16)).astype("float32")
    queued_rows = np.array([11, 12, 13, 14])
    model.queues["joint"].push(queued, queued_rows)
    rows = np.stack([np.arange(4), np.arange(4, 8), np.arange(15, 19)], axis=1)
    y_pred = {"query": views(query), "item": views(item), "hard": views(hard[:, None])}
    found = float(model.compute_loss({"rows": rows, "key": np.arange(4)}, y_pred=y_pred, training=False))
    # log of a softmax in which each candidate counts exp(s) over the chance to draw it; a hard one is compared as it is
    losses = []
    for b in range(4):
        own = np.exp(query[b] @ item[b]) / share[rows[b, 1]]
        others = sum(np.exp(query[b] @ item[o]) / share[rows[o, 1]] for o in range(4) if o != b)
        others += sum(np.exp(query[b] @ queued[q]) / share[queued_rows[q]] for q in range(4))
        others += np.exp(query[b] @ hard[b]) / share[rows[b, 1]]
        losses.append(-np.log(own / (own + others)))
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def views(vectors: np.ndarray) -> dict[str, np.ndarray]:
    return {"joint": vectors, "image": vectors, "text": vectors}


def test_loss_counts_the_queue_and_pushes_after() -> None:
    model, z = csft(), np.eye(16, dtype="float32")
    y_pred = {"query": views(z[:2]), "item": views(z[:2]), "hard": views(np.zeros((2, 0, 16), "float32"))}
    x = {"rows": np.array([[8, 1], [9, 2]]), "key": np.array([0, 1])}
    first = float(model.compute_loss(x, y_pred=y_pred, training=True))
    assert first == pytest.approx(np.log(np.e + 1) - 1, rel=1e-5)  # one in-batch negative at cosine 0
    np.testing.assert_array_equal(model.queues["joint"].rows.numpy()[:2], [1, 2])
    x = {"rows": np.array([[6, 3], [7, 4]]), "key": np.array([2, 3])}
    second = float(model.compute_loss(x, y_pred=y_pred, training=False))
    # now the queue holds rows 1 and 2: one at cosine 1, one at 0, beside the in-batch negative
    assert second == pytest.approx(np.log(2 * np.e + 2) - 1, rel=1e-5)


def test_the_queue_never_holds_what_a_key_likes_against_it() -> None:
    z = np.eye(16, dtype="float32")
    y_pred = {"query": views(z[:2]), "item": views(z[:2]), "hard": views(np.zeros((2, 0, 16), "float32"))}
    earlier = {"rows": np.array([[8, 1], [9, 2]]), "key": np.array([0, 1])}
    now = {"rows": np.array([[6, 3], [7, 4]]), "key": np.array([0, 2])}
    # of the queue's two, at cosine 1 and 0 to the first query and 0 and 1 to the second: key 0 liked row 1 before, and
    # key 2 likes both, one of which it never had in a step
    known = ItemsOfKeys.of(np.array([0, 1, 0, 2, 2, 2]), np.array([1, 2, 3, 4, 2, 1]))
    for positives, by_hand in (
        (None, 2 * (np.log(2 * np.e + 2) - 1)),
        (known, np.log(np.e + 2) + np.log(np.e + 1) - 2),
    ):
        plain = csft()
        model = Csft(plain.encoder, plain.config, np.zeros(20, "float32"), positives=positives)
        model.compute_loss(earlier, y_pred=y_pred, training=True)
        assert float(model.compute_loss(now, y_pred=y_pred, training=False)) == pytest.approx(by_hand / 2, rel=1e-5)


def test_pools_are_terms_of_their_own_and_hard_negatives_belong_to_their_pair() -> None:
    model, z = csft("pools", queue_size=0), np.eye(16, dtype="float32")
    hard = np.stack([[z[0], z[5]], [z[5], z[6]]])
    y_pred = {"query": views(z[:2]), "item": views(z[:2]), "hard": views(hard)}
    # the first pair's hard negatives: one at cosine 1, and one place empty; the second's: two at cosine 0
    x = {"rows": np.array([[8, 1, 11, ABSENT], [9, 2, 12, 13]]), "key": np.array([0, 1])}
    by_hand = (np.log(2 * np.e) - 1 + np.log(np.e + 2) - 1) / 2 + 0.3 * (np.log(np.e + 1) - 1)
    assert float(model.compute_loss(x, y_pred=y_pred)) == pytest.approx(by_hand, rel=1e-5)
    x["rows"][0, 2] = 8  # what the query itself holds is no negative
    by_hand = (0 + np.log(np.e + 2) - 1) / 2 + 0.3 * (np.log(np.e + 1) - 1)
    assert float(model.compute_loss(x, y_pred=y_pred)) == pytest.approx(by_hand, rel=1e-5)


def test_prefixes_are_vectors_of_their_own() -> None:
    model = csft(terms=(ContrastTerm(dimension=4),))
    z = np.random.default_rng(0).normal(size=(2, 16)).astype("float32")
    y_pred = {"query": views(z), "item": views(z), "hard": views(np.zeros((2, 0, 16), "float32"))}
    x = {"rows": np.array([[8, 1], [9, 2]]), "key": np.array([0, 1])}
    short = z[:, :4] / np.linalg.norm(z[:, :4], axis=1, keepdims=True)
    cosine = float(short[0] @ short[1])
    assert float(model.compute_loss(x, y_pred=y_pred)) == pytest.approx(np.log(np.e + np.exp(cosine)) - 1, rel=1e-4)


@pytest.mark.parametrize("table_rows", [5, 500], ids=["the table is projected", "the batch is projected"])
def test_a_history_is_the_mean_of_its_vectors_whichever_way_they_are_made(table_rows: int) -> None:
    rng = np.random.default_rng(1)
    model = csft("pools", query_items=3, queue_size=0)
    features = {
        "image_features": rng.normal(size=(table_rows, 32)).astype("float32"),
        "text_features": rng.normal(size=(table_rows, 16)).astype("float32"),
        "image_mask": np.ones(table_rows, "float32"),
        "text_mask": np.ones(table_rows, "float32"),
    }
    frozen = Csft(model.encoder, model.config, np.zeros(table_rows, "float32"), features, query_items=3)
    rows = np.array([[ABSENT, 0, 3, 1, 2], [2, 1, 4, 0, ABSENT]])
    found = frozen({"rows": rows, "key": np.array([0, 1])})
    joint = keras.ops.convert_to_numpy(model.encoder.embed(features)["joint"])
    np.testing.assert_allclose(found["query"]["joint"][0], (joint[0] + joint[3]) / 2, atol=1e-5)
    np.testing.assert_allclose(found["query"]["joint"][1], joint[[2, 1, 4]].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["item"]["joint"], joint[[1, 0]], atol=1e-5)
    np.testing.assert_allclose(found["hard"]["joint"][0, 0], joint[2], atol=1e-5)
