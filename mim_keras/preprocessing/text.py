"""Texts to the inputs of the text towers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from mim_keras.config import EncoderConfig, TextTowerConfig
from mim_keras.layers.towers.pretrained import load_text_preprocessor
from mim_keras.preprocessing.ngrams import NGramTokenizer, fit_lsa

_TOKENIZER, _CONFIG, _VOCABULARY = "tokenizer", "tokenizer.json", "vocabulary.txt"


def suffixed(name: str, index: int) -> str:
    """The name of an input of the LSA tower at `index`: plain for the first, then `NAME_1`, `NAME_2`, …"""
    return f"{name}_{index}" if index else name


class TextTokenizer:
    """Texts → token ids and padding mask; runs as TensorFlow operations, also inside a SavedModel.

    With a preset, texts are prepared as its model was trained: the tokenizer's case and special tokens, and for CLIP
    and SigLIP all of keras-hub's preprocessing.

    Args:
        config: Length, and the preset that the tokenizer comes from, if any.
        vocabulary: WordPiece tokens, in order, where there is no preset.
        saved: A tokenizer or preprocessor of keras-hub that replaces the preset's own; None: the preset's.

    Example:
        >>> from mim_keras.config import TextTowerConfig
        >>> from mim_keras.preprocessing.text import TextTokenizer
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "mug"]
        >>> token_ids, padding_mask = TextTokenizer(TextTowerConfig(max_tokens=5), pieces)(["Red mug"])
        >>> token_ids.numpy().tolist()
        [[2, 5, 6, 3, 0]]
    """

    def __init__(self, config: TextTowerConfig, vocabulary: list[str] | None = None, saved: Any = None) -> None:
        self.vocabulary, self._preprocessor = vocabulary, None
        if config.preset and saved is None:
            saved = load_text_preprocessor(config.preset, config.max_tokens)
            saved = saved or keras_hub.models.Tokenizer.from_preset(config.preset)
        if hasattr(saved, "tokenizer"):
            self._preprocessor, self.tokenizer = saved, saved.tokenizer
            return
        if config.preset:
            self.tokenizer = saved
        else:
            self.tokenizer = keras_hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
        self._packer = keras_hub.layers.StartEndPacker(
            sequence_length=config.max_tokens,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """Texts [B] → token ids int32 [B, T], padding mask bool [B, T]."""
        if self._preprocessor is not None:
            inputs = self._preprocessor({"prompts": texts, "images": None})
            return inputs["token_ids"], inputs["padding_mask"]
        token_ids, padding_mask = self._packer(self.tokenizer(texts))
        return token_ids, padding_mask

    def save_to_preset(self, folder: Path) -> None:
        """Writes the vocabulary, so that the preset it came from is not needed again."""
        if self.vocabulary is not None:
            (folder / _VOCABULARY).write_text("\n".join(self.vocabulary))
        else:
            (folder / _TOKENIZER).mkdir(exist_ok=True)
            saved = keras.saving.serialize_keras_object(self._preprocessor or self.tokenizer)
            (folder / _TOKENIZER / _CONFIG).write_text(json.dumps(saved))
            self.tokenizer.save_assets(str(folder / _TOKENIZER))

    @staticmethod
    def from_preset(folder: Path, config: TextTowerConfig) -> TextTokenizer:
        """The tokenizer that `save_to_preset` wrote."""
        if config.preset:
            saved = keras.saving.deserialize_keras_object(json.loads((folder / _TOKENIZER / _CONFIG).read_text()))
            getattr(saved, "tokenizer", saved).load_assets(str(folder / _TOKENIZER))
            return TextTokenizer(config, saved=saved)
        return TextTokenizer(config, (folder / _VOCABULARY).read_text().split("\n"))


SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")  # keras-hub's


def train_wordpiece_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """At most `size` WordPiece tokens learned from `texts`, after the special tokens; these alone without any text."""
    import tensorflow as tf

    lines = [text for text in texts if text.strip()]
    if not lines:
        return list(SPECIAL_TOKENS)
    wordpieces: list[str] = keras_hub.tokenizers.compute_word_piece_vocabulary(
        tf.data.Dataset.from_tensor_slices(lines).batch(512),
        vocabulary_size=size,
        lowercase=True,
        strip_accents=True,
    )
    return wordpieces


@dataclass(frozen=True)
class TextPreprocessor:
    """Texts → the inputs of all text towers.

    Attributes:
        tokenizer: Of the transformer; None where the encoder has none.
        ngrams: Of each LSA tower.
    """

    tokenizer: TextTokenizer | None
    ngrams: tuple[NGramTokenizer, ...] = ()

    @staticmethod
    def fit(config: EncoderConfig, texts: Sequence[str]) -> tuple[TextPreprocessor, list[np.ndarray]]:
        """Fits the vocabularies to a catalogue's texts; returns the tables of the LSA towers with it."""
        tokenizer = None
        if config.text.enabled:
            vocabulary = None if config.text.preset else train_wordpiece_vocabulary(texts, config.text.vocabulary_size)
            tokenizer = TextTokenizer(config.text, vocabulary)
        fitted = [fit_lsa(texts, tower) for tower in config.lsa_towers]
        ngrams = [NGramTokenizer(tower, terms) for tower, (terms, _) in zip(config.lsa_towers, fitted, strict=True)]
        return TextPreprocessor(tokenizer, tuple(ngrams)), [table for _, table in fitted]

    def __call__(self, texts: Any) -> dict[str, Any]:
        """Texts [B] → `token_ids` int32 and `token_mask` bool [B, T]; `term_ids` int32 and `term_weights` [B, K] of the
        first LSA tower, `term_ids_1`, … of further ones."""
        inputs = {}
        if self.tokenizer is not None:
            inputs["token_ids"], inputs["token_mask"] = self.tokenizer(texts)
        for index, tokenizer in enumerate(self.ngrams):
            inputs[suffixed("term_ids", index)], inputs[suffixed("term_weights", index)] = tokenizer(texts)
        return inputs

    @property
    def trackables(self) -> list[Any]:
        """Lookup tables that a SavedModel must track."""
        tokenizers = [self.tokenizer.tokenizer] if self.tokenizer else []
        return [*tokenizers, *(lookup for ngrams in self.ngrams for lookup in ngrams.lookups)]

    def save_to_preset(self, folder: Path) -> None:
        """Writes the vocabularies."""
        if self.tokenizer is not None:
            self.tokenizer.save_to_preset(folder)
        for index, ngrams in enumerate(self.ngrams):
            (folder / f"{suffixed('terms', index)}.txt").write_text("\n".join(ngrams.terms))

    @staticmethod
    def from_preset(folder: Path, config: EncoderConfig) -> TextPreprocessor:
        """The preprocessor that `save_to_preset` wrote."""
        tokenizer = TextTokenizer.from_preset(folder, config.text) if config.text.enabled else None
        files = [folder / f"{suffixed('terms', index)}.txt" for index in range(len(config.lsa_towers))]
        ngrams = [
            NGramTokenizer(tower, file.read_text().split("\n"))
            for tower, file in zip(config.lsa_towers, files, strict=True)
        ]
        return TextPreprocessor(tokenizer, tuple(ngrams))
