"""Tiny backbones with random weights, and their tokenizers, saved as presets are."""

from __future__ import annotations

import io
from typing import Any

import keras
import keras_hub
import sentencepiece

SIZE, LAYERS, LENGTH = 16, 3, 8
models = keras_hub.models


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


def vocabulary_of(pieces: str) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces.split())}


def word_pieces() -> Any:
    return models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "ab"], lowercase=True)


def byte_pairs() -> Any:
    vocabulary = vocabulary_of("<s> <pad> </s> <mask> a b A B Ġ Ġa Ġb Ġab")
    return models.RobertaTokenizer(vocabulary=vocabulary, merges=["Ġ a", "Ġ b", "Ġa b"])


def clip_byte_pairs() -> Any:
    """As in the presets of keras-hub: the end token has the highest id, by which it is found, and pads too."""
    vocabulary = vocabulary_of("! a</w> b</w> a b ab</w> <|startoftext|> <|endoftext|>")
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
