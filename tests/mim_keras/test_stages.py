"""Each stage learns, on whichever backend Keras runs, from arrays alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.config import ConfigError, ContrastTerm, CsftConfig, LexicalConfig, preset
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.pretrain import Pretraining
from tests.mim_keras.backend import numbers

pytestmark = pytest.mark.any_backend
ROWS = 32


@pytest.fixture
def encoder() -> ItemEncoder:
    keras.utils.set_random_seed(1)
    config = preset("tiny").encoder
    made = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
    made.build()
    return made


@pytest.fixture
def content(encoder: ItemEncoder, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pictures and words of things of four kinds; every eighth lacks its picture."""
    size, kind = encoder.config.image.size, np.arange(ROWS) % 4
    shades = rng.uniform(size=(4, 1, 1, 3))[kind]
    return {
        "image": np.clip(shades + rng.normal(0, 0.02, (ROWS, size, size, 3)), 0, 1).astype("float32"),
        "image_mask": (np.arange(ROWS) % 8 > 0).astype("float32"),
        "token_ids": np.repeat(kind[:, None] + 1, 12, axis=1).astype("int32"),
        "token_mask": np.ones((ROWS, 12), bool),
        "text_mask": np.ones(ROWS, "float32"),
    }


@pytest.mark.parametrize(
    "changes", [{}, {"loss": "sigmoid", "temperature": 0.1}, {"augment": 0.1, "token_masking": 0.2}], ids=str
)
def test_alignment_and_categories_are_learned(
    encoder: ItemEncoder, content: dict[str, np.ndarray], changes: dict
) -> None:
    model = Pretraining(encoder, replace(preset("tiny").pretrain, **changes), 4)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    category = np.eye(4, dtype="float32")[np.arange(ROWS) % 4]
    losses = model.fit({**content, "category": category}, batch_size=ROWS, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    views = {name: numbers(values) for name, values in encoder(content).items()}
    kind = np.arange(ROWS) % 4
    there = content["image_mask"] > 0
    nearest = np.argmax(views["image"][there] @ views["text"].T, axis=1)
    assert np.mean(kind[nearest] == kind[there]) > 0.8


def test_frozen_towers_are_aligned_by_their_heads(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> None:
    encoder.freeze_towers()
    features = features_of(encoder, content)
    kept = [numbers(variable) for variable in encoder.non_trainable_variables]
    model = Pretraining(encoder, replace(preset("tiny").pretrain, trainable="head"), 4)
    for name, values in encoder.embed(features).items():
        np.testing.assert_allclose(numbers(model(features)[name]), numbers(values), atol=1e-6)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    category = np.eye(4, dtype="float32")[np.arange(ROWS) % 4]
    losses = model.fit({**features, "category": category}, batch_size=ROWS, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for one, other in zip(kept, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, numbers(other))
    with pytest.raises(ConfigError, match=r"frozen ones read it once; received \(0.1, 0.0\)"):
        replace(preset("tiny").pretrain, trainable="head", augment=0.1)


def test_what_is_changed_in_training_alone(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> None:
    model = Pretraining(encoder, replace(preset("tiny").pretrain, augment=0.2, token_masking=0.5))
    quiet = [numbers(model(content)["joint"]) for _ in range(2)]
    np.testing.assert_array_equal(*quiet)
    loud = [numbers(model(content, training=True)["joint"]) for _ in range(2)]
    assert not np.allclose(loud[0], loud[1])
    changed = model._changed(content)
    assert 0.4 < 1 - numbers(changed["token_mask"])[:, 1:].mean() < 0.6
    assert numbers(changed["token_mask"])[:, 0].all()
    pictures = numbers(changed["image"])
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert not np.allclose(pictures, content["image"])


def test_pairs_are_learned_and_frozen_towers_stay(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> None:
    encoder.freeze_towers()
    terms = (ContrastTerm(pools=("batch", "time")),)
    config = CsftConfig(terms=terms, queue_size=64, align_weight=0.1, modality_dropout=0.2, log_q=False)
    model = Csft(
        encoder, config, np.zeros(ROWS, "float32"), {k: numbers(v) for k, v in encoder.features(content).items()}
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    before = [numbers(variable) for variable in encoder.non_trainable_variables]
    rows = np.stack([np.arange(ROWS), (np.arange(ROWS) + 4) % ROWS], axis=1).astype("int32")
    keys = np.arange(ROWS, dtype="int32")
    losses = model.fit({"rows": rows, "key": keys}, batch_size=16, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[1]  # the queue fills in the first
    for one, other in zip(before, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, numbers(other))


def features_of(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: numbers(values) for name, values in encoder.features(content).items()}


PAIRS = {
    "rows": np.stack([np.arange(ROWS), (np.arange(ROWS) + 4) % ROWS], axis=1).astype("int32"),
    "key": np.arange(ROWS, dtype="int32"),
}


def test_a_linear_residual_begins_as_stage_1_and_learns_alone(
    encoder: ItemEncoder, content: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Set encoder\.residual and train stage 1 again"):
        encoder.freeze_all_but_residuals()
    words, _ = TextReader.fit(encoder.config, ["red mug", "blue lamp"])
    plain, encoder = encoder, ItemEncoder(replace(encoder.config, residual=True), words)
    encoder.build()
    assert len(encoder.trainable_variables) == len(plain.trainable_variables)
    before = numbers(encoder(content)["joint"])
    encoder.freeze_all_but_residuals()
    np.testing.assert_allclose(numbers(encoder(content)["joint"]), before, atol=1e-6)
    kept = [numbers(variable) for variable in encoder.non_trainable_variables]
    config = CsftConfig(queue_size=0, align_weight=0.0, log_q=False, trainable="residual")
    model = Csft(encoder, config, np.zeros(ROWS, "float32"), features_of(encoder, content))
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = model.fit(PAIRS, batch_size=16, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for one, other in zip(kept, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, numbers(other))
    views, turn = numbers(encoder(content)["joint"]), numbers(encoder.residuals["joint"].kernel)
    turned = before + before @ turn
    np.testing.assert_allclose(views, turned / np.linalg.norm(turned, axis=1, keepdims=True), atol=1e-4)
    encoder.save_to(tmp_path, words)
    loaded, _ = ItemEncoder.load_from(tmp_path)
    np.testing.assert_allclose(numbers(loaded(content)["joint"]), views, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False], ids=["of features", "of content"])
def test_the_queue_holds_what_a_slow_encoder_makes(
    encoder: ItemEncoder, content: dict[str, np.ndarray], frozen: bool
) -> None:
    if frozen:
        encoder.freeze_towers()
    m, first = 0.9, {name: numbers(values) for name, values in encoder(content).items()}
    terms = (ContrastTerm(pools=("batch", "time")),)
    config = CsftConfig(terms=terms, queue_size=64, momentum=m, align_weight=0.0, log_q=False, modality_dropout=0.0)
    model = Csft(
        encoder, config, np.zeros(ROWS, "float32"), features_of(encoder, content) if frozen else None, query_items=1
    )
    assert model.followers is not None
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    pairs = dict(PAIRS)
    if not frozen:
        pairs |= {name: values[PAIRS["rows"]] for name, values in content.items()}
    begin = [numbers(weight) for weight in encoder.trainable_variables]
    batch = {name: values[:8] for name, values in pairs.items()}
    model.fit(batch, batch_size=8, epochs=1, shuffle=False, verbose=0)
    # at the first step the copies were what the encoder was, and so is what they made
    np.testing.assert_allclose(numbers(model.queues["joint"].vectors)[:8], first["joint"][4:12], atol=1e-5)
    after_one = [numbers(weight) for weight in encoder.trainable_variables]
    model.fit(batch, batch_size=8, epochs=1, shuffle=False, verbose=0)
    for copy, old, new in zip(model.followers.copies, begin, after_one, strict=True):
        np.testing.assert_allclose(numbers(copy), m * old + (1 - m) * new, atol=1e-6)
    held = numbers(model.queues["joint"].vectors)[8:16]
    with model.followers.in_place(model.variables):
        slow = numbers(encoder(content)["joint"])[4:12]
    np.testing.assert_allclose(held, slow, atol=1e-5)
    assert not np.allclose(held, numbers(encoder(content)["joint"])[4:12], atol=1e-3)  # the trained one has moved on


def test_a_vector_of_several_parts_counts_each_alike(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> None:
    config = replace(encoder.config, lexical=LexicalConfig(terms=9, min_count=1, width=3))
    config = replace(config, vector=("joint", "text_features", "image_features"))
    words, tables = TextReader.fit(config, ["red mug #genre:old", "blue lamp #genre:new"] * 2)
    wide = ItemEncoder(config, words)
    wide.build()
    wide.fill(tables)
    last = len(tables[0])  # the tags stand last
    ids = np.tile(np.array([[1, 3, last], [2, 3, last - 1]], "int32"), (ROWS // 2, 1))
    content = {**content, "term_ids": ids, "term_weights": np.ones(ids.shape, "float32")}
    content["text_mask"] = (np.arange(ROWS) % 8 != 1).astype("float32")
    content["image_mask"][1] = 0  # the second thing has nothing
    found, parts = numbers(wide(content)["vector"]), features_of(wide, content)
    assert found.shape == (ROWS, wide.vector_dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.arange(ROWS) != 1, atol=1e-3)

    def unit(values: np.ndarray) -> np.ndarray:
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)

    tower = config.text.hidden_dim
    joint, text, image = numbers(wide(content)["joint"]), parts["text_features"], parts["image_features"]
    blocks = [joint, unit(text[:, :tower]), text[:, tower : tower + 3], text[:, tower + 3 :], unit(image)]
    masks = [np.ones(ROWS), *[content["text_mask"]] * 3, content["image_mask"]]
    expected = np.concatenate([block * mask[:, None] for block, mask in zip(blocks, masks, strict=True)], axis=1)
    np.testing.assert_allclose(found, unit(expected), atol=1e-3)
    cosines = [np.sum(block[2] * block[3]) for block in blocks]
    assert np.sum(found[2] * found[3]) == pytest.approx(np.mean(cosines), abs=1e-3)
