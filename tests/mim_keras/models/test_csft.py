"""Stage 2: its losses against numbers worked out by hand, its queue, and what it learns."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.config import CsftConfig
from mim_keras.layers import KnownPositives
from mim_keras.models import Csft
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend
PLAIN = {"queue_size": 8, "log_q": False, "align_weight": 0.0, "modality_dropout": 0.0, "temperature": 1.0}
D = 16


def model_of(positives: Any = None, query_length: int = 1, **changes: Any) -> Csft:
    encoder, _ = tiny.tiny_encoder()
    model = Csft(encoder, tiny.csft_config(**{**PLAIN, **changes}), 20, query_length)
    model.set_data(None, None, positives)
    model.compile(optimizer="sgd")
    return model


def views(query: np.ndarray, item: np.ndarray, hard: np.ndarray | None = None) -> dict[str, np.ndarray]:
    hard = np.zeros((len(query), 0, D), "float32") if hard is None else hard
    sides = {"query": query, "item": item, "hard_negative": hard}
    return {f"{side}_{view}": values for side, values in sides.items() for view in ("image", "text", "joint")}


def batch(query: list, item: list, key: list, hard: list | None = None) -> dict[str, np.ndarray]:
    rows = np.zeros((len(item), 0), int) if hard is None else np.array(hard)
    return {
        "query_rows": np.array(query).reshape(len(item), -1),
        "item_row": np.array(item),
        "hard_negative_rows": rows,
        "key": np.array(key),
    }


def loss(model: Csft, x: dict, y_pred: dict, training: bool = False) -> float:
    return float(model.compute_loss(x, None, y_pred, training=training))


def test_log_q_corrects_for_popularity_by_numpy(rng: np.random.Generator) -> None:
    share = rng.uniform(0.001, 0.2, 21)
    model = model_of(terms=[{"negatives": ["in_batch", "queue", "hard"]}], log_q=True)
    model.set_data(None, np.log(share))
    query, item, queued, hard = rng.normal(size=(4, 4, D)).astype("float32")
    queued_rows = np.array([12, 13, 14, 15])
    model.queues["joint"].enqueue(queued, queued_rows)
    x = batch([1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2, 3], [[16], [17], [18], [19]])
    found = loss(model, x, views(query, item, hard[:, None]))
    # log of a softmax in which each candidate counts exp(s) over its probability; a hard one compares uncorrected
    losses = []
    for b in range(4):
        positive = np.exp(query[b] @ item[b]) / share[x["item_row"][b]]
        others = sum(np.exp(query[b] @ item[o]) / share[x["item_row"][o]] for o in range(4) if o != b)
        others += sum(np.exp(query[b] @ queued[q]) / share[queued_rows[q]] for q in range(4))
        others += np.exp(query[b] @ hard[b]) / share[x["item_row"][b]]
        losses.append(-np.log(positive / (positive + others)))
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_loss_counts_the_queue_and_enqueues_after() -> None:
    model, z = model_of(), np.eye(D, dtype="float32")
    first = loss(model, batch([8, 9], [1, 2], [0, 1]), views(z[:2], z[:2]), training=True)
    assert first == pytest.approx(np.log(np.e + 1) - 1, rel=1e-5)  # one in-batch negative at cosine 0
    np.testing.assert_array_equal(numbers(model.queues["joint"].item_rows)[:2], [1, 2])
    second = loss(model, batch([6, 7], [3, 4], [2, 3]), views(z[:2], z[:2]))
    # now the queue holds rows 1 and 2: one at cosine 1, one at 0, beside the in-batch negative
    assert second == pytest.approx(np.log(2 * np.e + 2) - 1, rel=1e-5)
    assert float(model.accuracy.result()) == 1.0


def test_what_a_key_is_known_to_like_is_masked_in_the_queue() -> None:
    z = np.eye(D, dtype="float32")
    # of the queue's two, at cosine 1 and 0 to the first query and 0 and 1 to the second: key 0 led to row 1 before, and
    # key 2 to both, one of them in no step
    known = KnownPositives.from_pairs(np.array([0, 1, 0, 2, 2, 2]), np.array([1, 2, 3, 4, 2, 1]))
    for positives, by_hand in (
        (None, 2 * (np.log(2 * np.e + 2) - 1)),
        (known, np.log(np.e + 2) + np.log(np.e + 1) - 2),
    ):
        model = model_of(positives)
        loss(model, batch([8, 9], [1, 2], [0, 1]), views(z[:2], z[:2]), training=True)
        found = loss(model, batch([6, 7], [3, 4], [0, 2]), views(z[:2], z[:2]))
        assert found == pytest.approx(by_hand / 2, rel=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_an_item_of_the_query_is_never_its_negative(known: bool) -> None:
    positives = KnownPositives.from_pairs(np.array([0, 1]), np.array([1, 2])) if known else None
    model, z = model_of(positives, queue_size=0), np.ones((2, D), "float32")
    # the second pair's item is the first query itself
    found = loss(model, batch([2, 9], [1, 2], [0, 1]), views(z, z))
    assert found == pytest.approx(np.log(2) / 2, rel=1e-5)  # of two queries only the second has a negative


def test_hard_negatives_belong_to_their_pair() -> None:
    model, z = model_of(loss_preset="negatives", queue_size=0), np.eye(D, dtype="float32")
    hard = np.stack([[z[0], z[5]], [z[5], z[6]]])
    # the first pair's hard negatives: one at cosine 1, and padding; the second's: two at cosine 0
    x = batch([8, 9], [1, 2], [0, 1], [[11, 0], [12, 13]])
    by_hand = (np.log(2 * np.e) - 1 + np.log(np.e + 2) - 1) / 2 + 0.3 * (np.log(np.e + 1) - 1)
    assert loss(model, x, views(z[:2], z[:2], hard)) == pytest.approx(by_hand, rel=1e-5)
    by_hand = (0 + np.log(np.e + 2) - 1) / 2 + 0.3 * (np.log(np.e + 1) - 1)
    for own in (8, 1):  # an item of the query, and the pair's own item, are no negatives
        x["hard_negative_rows"][0, 0] = own
        assert loss(model, x, views(z[:2], z[:2], hard)) == pytest.approx(by_hand, rel=1e-5)


def test_only_the_hardest_shared_negatives_may_be_kept() -> None:
    z = np.eye(D, dtype="float32")
    item = np.stack([z[0], 0.5 * z[0] + z[1], 0.2 * z[0] + z[2]])
    x = batch([8, 9, 10], [1, 2, 3], [0, 1, 2])
    model = model_of(queue_size=0, num_hardest_negatives=1)
    found = loss(model, x, views(np.stack([z[0]] * 3), item))
    by_hand = [np.log(np.exp(s) + np.exp(n)) - s for s, n in ((1.0, 0.5), (0.5, 1.0), (0.2, 1.0))]
    assert found == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_prefix_is_normalized_again() -> None:
    model = model_of(terms=[{"prefix_dim": 4}])
    z = np.random.default_rng(0).normal(size=(2, D)).astype("float32")
    short = z[:, :4] / np.linalg.norm(z[:, :4], axis=1, keepdims=True)
    found = loss(model, batch([8, 9], [1, 2], [0, 1]), views(z, z))
    assert found == pytest.approx(np.log(np.e + np.exp(float(short[0] @ short[1]))) - 1, rel=1e-4)


def test_the_temperature_does_not_fall_below_a_hundredth() -> None:
    model, z = model_of(queue_size=0), 0.01 * np.eye(D, dtype="float32")
    x, y_pred = batch([8, 9], [1, 2], [0, 1]), views(100 * z[:2], z[:2])
    found = {}
    for scale in (10.0, 100.0, 1000.0):
        model.log_logit_scale.assign(np.log(scale))
        found[scale] = loss(model, x, y_pred)
    assert found[1000.0] == pytest.approx(found[100.0], rel=1e-5)
    assert found[100.0] < 0.8 * found[10.0]


@pytest.mark.parametrize("num_items", [5, 500], ids=["the table is projected", "the batch is projected"])
def test_a_history_is_the_mean_of_its_views_whichever_way_they_are_computed(num_items: int) -> None:
    rng, encoder = np.random.default_rng(1), tiny.tiny_encoder()[0]
    rows = num_items + 1
    features = {
        "image_features": rng.normal(size=(rows, 32)).astype("float32"),
        "text_features": rng.normal(size=(rows, 16)).astype("float32"),
        "image_mask": np.ones(rows, "float32"),
        "text_mask": np.ones(rows, "float32"),
    }
    model = Csft(encoder, tiny.csft_config(**{**PLAIN, "loss_preset": "negatives", "queue_size": 0}), num_items, 3)
    model.set_data(features)
    found = model(batch([[0, 1, 4], [3, 2, 5]], [2, 1], [0, 1], [[3], [0]]))
    joint = numbers(encoder.projection(features)["joint"])
    np.testing.assert_allclose(numbers(found["query_joint"])[0], (joint[1] + joint[4]) / 2, atol=1e-5)
    np.testing.assert_allclose(numbers(found["query_joint"])[1], joint[[3, 2, 5]].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(numbers(found["item_joint"]), joint[[2, 1]], atol=1e-5)
    np.testing.assert_allclose(numbers(found["hard_negative_joint"])[0, 0], joint[3], atol=1e-5)
    model.query_projections["joint"].kernel.assign(np.eye(D)[::-1])
    np.testing.assert_allclose(
        numbers(model(batch([[0, 1, 4]], [2], [0], [[3]]))["query_joint"])[0],
        (joint[1] + joint[4])[::-1] / 2,
        atol=1e-5,
    )


def test_modality_dropout_masks_one_modality_of_some_rows() -> None:
    model = tiny.csft(modality_dropout=0.8, align_weight=0.0)
    content = {"image_mask": np.ones(4000, "float32"), "text_mask": np.ones(4000, "float32")}
    content["image_mask"][:500] = 0
    found = {name: numbers(values) for name, values in model._modality_dropout(content).items()}
    assert (found["text_mask"][:500] == 1).all(), "the only modality is kept"
    both = slice(500, None)
    assert 0.37 < 1 - found["image_mask"][both].mean() < 0.43
    assert 0.37 < 1 - found["text_mask"][both].mean() < 0.43
    assert (found["image_mask"][both] + found["text_mask"][both] >= 1).all()


@pytest.mark.learns
@pytest.mark.parametrize("frozen", [True, False], ids=["features", "content"])
def test_pairs_are_learned_and_frozen_towers_stay(frozen: bool) -> None:
    """Kinds are paired, 0 with 1 and 2 with 3, whatever they look like: only the pairs show what belongs together."""
    model = tiny.csft(frozen, terms=[{"negatives": ["in_batch"]}], align_weight=0.0, modality_dropout=0.0, log_q=False)
    rows = np.arange(4, 16)  # with both modalities
    kind = rows % 4
    item = np.concatenate([np.roll(rows[kind == (own ^ 1)], 1)[:1] for own in kind])
    x = {name: values.astype("int32") for name, values in batch(rows + 1, item + 1, kind // 2).items()}
    inputs = x if frozen else tiny.with_content(x)
    before = [numbers(variable) for variable in model.encoder.non_trainable_variables]

    def hits() -> float:
        """Share of items whose nearest item of another kind is of the paired kind."""
        joint = numbers(model.encoder(tiny.encoder_inputs())["joint"])[4:]
        similarity = np.where(kind[:, None] == kind[None, :], -9, joint @ joint.T)
        return float(np.mean(kind[similarity.argmax(axis=1)] == kind ^ 1))

    first = hits()
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(inputs, batch_size=12, epochs=60, verbose=0)
    assert hits() > max(0.9, first)
    assert first < 0.9
    for one, other in zip(before, model.encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, numbers(other))


@pytest.mark.parametrize("frozen", [True, False], ids=["features", "content"])
def test_the_queue_is_filled_by_the_momentum_encoder(frozen: bool) -> None:
    m = 0.9
    changes = {"momentum": m, "queue_size": 64, "align_weight": 0.0, "log_q": False, "modality_dropout": 0.0}
    model = tiny.csft(frozen, **changes)
    encoder, content = model.encoder, tiny.encoder_inputs()
    first = numbers(encoder(content)["joint"])
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    x = {name: values[:8] for name, values in tiny.pairs(hard=0).items()}
    x = x if frozen else tiny.with_content(x)
    begin = [numbers(weight) for weight in encoder.trainable_variables]
    model.fit(x, batch_size=8, epochs=1, shuffle=False, verbose=0)
    # at the first step the averages were what the encoder was, and so is what they embedded
    np.testing.assert_allclose(numbers(model.queues["joint"].embeddings)[:8], first[:8], atol=1e-5)
    after_one = [numbers(weight) for weight in encoder.trainable_variables]
    model.fit(x, batch_size=8, epochs=1, shuffle=False, verbose=0)
    for average, old, new in zip(model.momentum_encoder.ema_variables, begin, after_one, strict=True):
        np.testing.assert_allclose(numbers(average), m * old + (1 - m) * new, atol=1e-6)
    held = numbers(model.queues["joint"].embeddings)[8:16]
    slow = numbers(model.momentum_encoder(content)["joint"])[:8]
    np.testing.assert_allclose(held, slow, atol=1e-5)
    assert not np.allclose(held, numbers(encoder(content)["joint"])[:8], atol=1e-3)  # the trained one moved on


def test_data_are_in_no_weights_and_a_loaded_model_takes_them_again() -> None:
    model = tiny.csft(positives=KnownPositives.from_pairs(np.array([0]), np.array([1])))
    shapes = {tuple(variable.shape) for variable in model.variables}
    assert not any(shape and shape[0] == tiny.CONTENTS + 1 for shape in shapes)
    again = Csft.from_config(model.get_config())
    again.set_weights(model.get_weights())
    features = {name: numbers(model.features.all(name)) for name in model.features.names}
    again.set_data(features)
    for name, values in model(tiny.pairs()).items():
        np.testing.assert_array_equal(numbers(again(tiny.pairs())[name]), numbers(values))


def test_the_settings_are_kept() -> None:
    assert isinstance(Csft.from_config(tiny.csft(query_length=2).get_config()).config, CsftConfig)


def test_weights_of_held_out_pairs_count_without_labels() -> None:
    model = tiny.csft()
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    batch = tiny.pairs()
    weights = np.zeros(tiny.CONTENTS, "float32")
    history = model.fit(batch, validation_data=(batch, None, weights), batch_size=tiny.CONTENTS, verbose=0).history
    assert history["val_loss"] == [0.0]
    assert history["loss"][0] > 0


def test_unknown_keys_have_no_positives() -> None:
    positives = KnownPositives.from_pairs(np.array([0, 1]), np.array([4, 6]))
    assert positives.sample(np.array([-1, 1, 9]), 2, np.random.default_rng(0)).tolist() == [[0], [6], [0]]
    model = tiny.csft(positives=positives)
    model.compile(optimizer="sgd")
    loss = model.evaluate({**tiny.pairs(), "key": np.full(tiny.CONTENTS, 99)}, verbose=0, return_dict=True)["loss"]
    assert np.isfinite(loss)


def test_data_that_do_not_belong_together_are_refused(rng: np.random.Generator) -> None:
    model = tiny.csft()
    features = tiny.random_features(rng, 17)
    with pytest.raises(ValueError, match="must have one row an item and row 0 for padding"):
        model.set_data(features, log_q=np.zeros(16))
    with pytest.raises(ValueError, match="positives must name rows below 17"):
        model.set_data(features, positives=KnownPositives.from_pairs(np.array([0]), np.array([17])))
    with pytest.raises(ValueError, match="key and item_row must have one length"):
        KnownPositives.from_pairs(np.array([0, 1]), np.array([3]))
