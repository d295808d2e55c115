"""The three stages in half precision: what is missing from the content or the history makes no number infinite."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from mim_keras.config import ContrastTerm, preset
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.pretrain import Pretraining
from tests.mim_keras.backend import numbers
from tests.mim_keras.layer_harness import HALVES, half_precision
from tests.mim_keras.tiny_ranker import inputs, ranker, some_columns

pytestmark = [pytest.mark.any_backend, pytest.mark.parametrize("kind", HALVES)]
ROWS = 8


def encoder_and_content() -> tuple[ItemEncoder, dict[str, np.ndarray]]:
    """Eight things: the first lacks its picture, the second its words, the third both."""
    keras.utils.set_random_seed(1)
    config = preset("tiny").encoder
    encoder = ItemEncoder(config, TextReader.fit(config, ["red mug", "blue lamp"])[0])
    encoder.build()
    size, rng = config.image.size, np.random.default_rng(0)
    image_mask = np.ones(ROWS, "float32")
    image_mask[[0, 2]] = 0
    text_mask = np.ones(ROWS, "float32")
    text_mask[[1, 2]] = 0
    return encoder, {
        "image": rng.uniform(size=(ROWS, size, size, 3)).astype("float32") * image_mask[:, None, None, None],
        "image_mask": image_mask,
        "token_ids": rng.integers(1, 4, (ROWS, 12)).astype("int32"),
        "token_mask": np.repeat(text_mask[:, None] > 0, 12, axis=1),
        "text_mask": text_mask,
    }


def check_learns(model: keras.Model, x: dict[str, np.ndarray], y: np.ndarray | None = None) -> None:
    """Trains for longer than a loss scale that begins too high skips steps; all stays finite, and weights change."""
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(x, y, batch_size=ROWS, epochs=1, verbose=0)
    before = [numbers(variable) for variable in model.trainable_variables]
    losses = model.fit(x, y, batch_size=ROWS, epochs=20, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    after = [numbers(variable) for variable in model.trainable_variables]
    assert all(np.all(np.isfinite(values)) for values in after)
    assert np.mean([np.any(one != other) for one, other in zip(before, after, strict=True)]) > 0.5


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_stage_1(kind: str, loss: str) -> None:
    if (keras.backend.backend(), kind) == ("jax", "float16"):
        pytest.skip("on a CPU, JAX has no product of float16 that Keras' attention asks for")
    with half_precision(kind):
        encoder, content = encoder_and_content()
        model = Pretraining(encoder, replace(preset("tiny").pretrain, loss=loss), 4)
        check_learns(model, {**content, "category": np.eye(4, dtype="float32")[np.arange(ROWS) % 4]})
        joint = numbers(keras.ops.cast(encoder(content)["joint"], "float32"))
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), [1, 1, 0, 1, 1, 1, 1, 1], atol=0.02)


def test_stage_2(kind: str) -> None:
    with half_precision(kind):
        encoder, content = encoder_and_content()
        terms = (ContrastTerm(pools=("batch", "time", "hard")), ContrastTerm("image", "text", dimension=8))
        config = replace(preset("tiny").csft, terms=terms, queue_size=16, trainable="head")
        features = {name: numbers(keras.ops.cast(v, "float32")) for name, v in encoder.features(content).items()}
        encoder.freeze_towers()
        model = Csft(encoder, config, np.zeros(ROWS, "float32"), features)
        rows = np.stack([np.arange(ROWS), np.roll(np.arange(ROWS), 3), np.roll(np.arange(ROWS), 5)], axis=1)
        check_learns(model, {"rows": rows.astype("int32"), "key": np.arange(ROWS, dtype="int32")})


def test_stage_3(kind: str) -> None:
    x = inputs(ROWS)
    assert not x["history_rows"][0].any()
    with half_precision(kind):
        check_learns(ranker(some_columns(), search=3), x, (x["item_row"] % 2).astype("float32"))
