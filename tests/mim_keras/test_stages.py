"""Each stage learns, on whichever backend Keras runs, from arrays alone."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from mim_keras.config import ContrastTerm, CsftConfig, preset
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
