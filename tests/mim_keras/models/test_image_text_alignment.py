"""Stage 1: what it learns, and what it changes in training alone."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from mim_keras.config import ConfigError, preset
from mim_keras.losses import CLIPLoss
from mim_keras.models import ImageTextAlignment
from tests.mim_keras import tiny
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import CATEGORIES

pytestmark = pytest.mark.any_backend
KIND = np.arange(tiny.CONTENTS) % 4


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss": "sigmoid", "temperature": 0.1}, {"augmentation_strength": 0.1, "token_masking": 0.2}],
    ids=str,
)
@pytest.mark.learns
def test_alignment_and_categories_are_learned(changes: dict) -> None:
    model, content = tiny.alignment(**changes), tiny.encoder_inputs()
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(content, CATEGORIES, batch_size=tiny.CONTENTS, epochs=60, verbose=0)
    views = {name: numbers(values) for name, values in model(content).items()}
    has_image, has_text = content["image_mask"] > 0, content["text_mask"] > 0
    similarity = views["image"][has_image] @ views["text"][has_text].T
    assert np.mean(KIND[has_text][similarity.argmax(axis=1)] == KIND[has_image]) > 0.8
    known = has_image | has_text
    assert np.mean(views["category"].argmax(axis=1)[known] == KIND[known]) > 0.6


def test_the_loss_by_the_loss_functions() -> None:
    model, content = tiny.alignment(category_weight=0.3), tiny.encoder_inputs()
    model.compile(optimizer="adam")
    views = {name: numbers(values) for name, values in model(content).items()}
    found = model.evaluate(content, CATEGORIES, batch_size=tiny.CONTENTS, verbose=0, return_dict=True)
    both = content["image_mask"] * content["text_mask"]
    align = float(CLIPLoss()(both, views["image"] @ views["text"].T / 0.07))
    assert found["alignment_loss"] == pytest.approx(align, rel=1e-4)
    log_p = views["category"] - np.log(np.exp(views["category"]).sum(axis=1, keepdims=True))
    category = float(-np.mean(log_p[np.arange(tiny.CONTENTS), KIND]))
    assert found["loss"] == pytest.approx(align + 0.3 * category, rel=1e-4)
    with pytest.raises(ValueError, match=r"needs multi-hot categories as labels; received None\. Give them"):
        model.evaluate(content, verbose=0)


def test_frozen_towers_are_aligned_by_their_heads() -> None:
    encoder, _ = tiny.tiny_encoder()
    encoder.freeze_towers()
    features = {name: numbers(values) for name, values in encoder.towers(tiny.encoder_inputs()).items()}
    kept = [numbers(variable) for variable in encoder.non_trainable_variables]
    model = ImageTextAlignment(encoder, replace(preset("tiny").pretrain, trainable="head"), 4)
    for name, values in encoder.projection(features).items():
        np.testing.assert_allclose(numbers(model(features)[name]), numbers(values), atol=1e-6)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(features, CATEGORIES, batch_size=tiny.CONTENTS, epochs=60, verbose=0)
    views, both = model(features), features["image_mask"] * features["text_mask"] > 0
    similarity = numbers(views["image"])[both] @ numbers(views["text"])[both].T
    assert np.mean(KIND[both][similarity.argmax(axis=1)] == KIND[both]) > 0.8
    for one, other in zip(kept, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, numbers(other))
    with pytest.raises(ConfigError, match=r"must be 0 where towers are frozen; received \(0.1, 0.0\)"):
        replace(preset("tiny").pretrain, trainable="head", augmentation_strength=0.1)


def test_images_and_tokens_are_changed_in_training_alone() -> None:
    model, content = tiny.alignment(augmentation_strength=0.2, token_masking=0.5), tiny.encoder_inputs()
    content["token_mask"][:] = True
    quiet = [numbers(model(content)["joint"]) for _ in range(2)]
    np.testing.assert_array_equal(*quiet)
    loud = [numbers(model(content, training=True)["joint"]) for _ in range(2)]
    assert not np.allclose(loud[0], loud[1])
    changed = model._augment(content)
    assert 0.35 < 1 - numbers(changed["token_mask"])[:, 1:].mean() < 0.65
    assert numbers(changed["token_mask"])[:, 0].all()
    images = numbers(changed["image"])
    assert images.min() >= 0
    assert images.max() <= 1
    assert not np.allclose(images, content["image"])


def test_labels_need_categories_and_augmentation_an_image() -> None:
    model = ImageTextAlignment(tiny.tiny_encoder()[0], preset("tiny").pretrain)
    model.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="without categories takes no labels; received labels"):
        model.fit(tiny.encoder_inputs(), np.ones((tiny.CONTENTS, 2)), verbose=0)
    model.fit(tiny.encoder_inputs(), np.ones((tiny.CONTENTS, 0)), verbose=0)  # of a catalogue without categories
    assert model.evaluate(tiny.encoder_inputs(), sample_weight=np.zeros(tiny.CONTENTS), verbose=0) == 0
    augmented = tiny.alignment(augmentation_strength=0.1)
    content = {name: values for name, values in tiny.encoder_inputs().items() if name != "image"}
    assert "image" not in augmented._augment(content)
