"""What the text towers read, made from strings; the same TensorFlow operations in training and in serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mim_keras.config import EncoderConfig
from mim_keras.encoders.lexical_tower import LexicalTerms, fit_terms
from mim_keras.encoders.text_tower import TextTokens, make_vocabulary

_VOCABULARY = "vocabulary.txt"


def numbered(name: str, place: int) -> str:
    """The name of what the lexical tower at `place` has: that of the first is plain, behind others stands a number."""
    return f"{name}_{place}" if place else name


@dataclass(frozen=True)
class TextReader:
    """Strings → `token_ids`, `token_mask` for the transformer and `term_ids`, `term_weights` for the lexical tower;
    `term_ids_1`, … for further ones.

    Attributes:
        tokens: None where the encoder has no transformer.
        terms: Of each lexical tower.
    """

    tokens: TextTokens | None
    terms: tuple[LexicalTerms, ...] = ()

    @staticmethod
    def fit(config: EncoderConfig, texts: Sequence[str]) -> tuple[TextReader, list[np.ndarray]]:
        """A reader for a catalogue's texts (see `join_words`), and the table of each lexical tower."""
        tokens = None
        if config.text.is_on:
            own = None if config.text.preset else make_vocabulary(texts, config.text.vocabulary_size)
            tokens = TextTokens(config.text, own)
        fitted = [fit_terms(texts, lexical) for lexical in config.lexicals]
        terms = [LexicalTerms(lexical, names) for lexical, (names, _) in zip(config.lexicals, fitted, strict=True)]
        return TextReader(tokens, tuple(terms)), [table for _, table in fitted]

    def __call__(self, texts: Any) -> dict[str, Any]:
        """Texts [B] → `token_ids` int32 and `token_mask` bool [B, T], `term_ids` int32 and `term_weights` [B, K]."""
        read = {}
        if self.tokens is not None:
            read["token_ids"], read["token_mask"] = self.tokens(texts)
        for place, terms in enumerate(self.terms):
            read[numbered("term_ids", place)], read[numbered("term_weights", place)] = terms(texts)
        return read

    @property
    def tables(self) -> list[Any]:
        """What a SavedModel must track."""
        return [
            *([self.tokens.tokenizer] if self.tokens else []),
            *(table for own in self.terms for table in own.lookups),
        ]

    def save_to(self, folder: Path) -> None:
        """Writes the vocabularies that are the catalogue's own."""
        if self.tokens is not None and self.tokens.vocabulary is not None:
            (folder / _VOCABULARY).write_text("\n".join(self.tokens.vocabulary))
        for place, own in enumerate(self.terms):
            (folder / f"{numbered('terms', place)}.txt").write_text("\n".join(own.terms))

    @staticmethod
    def load_from(folder: Path, config: EncoderConfig) -> TextReader:
        """The reader that `save_to` wrote."""
        tokens = None
        if config.text.is_on:
            own = folder / _VOCABULARY
            tokens = TextTokens(config.text, own.read_text().split("\n") if own.exists() else None)
        files = [folder / f"{numbered('terms', place)}.txt" for place in range(len(config.lexicals))]
        terms = [
            LexicalTerms(lexical, file.read_text().split("\n"))
            for lexical, file in zip(config.lexicals, files, strict=True)
        ]
        return TextReader(tokens, tuple(terms))
