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

_VOCABULARY, _TERMS = "vocabulary.txt", "terms.txt"


@dataclass(frozen=True)
class TextReader:
    """Strings → `token_ids`, `token_mask` for the transformer and `term_ids`, `term_weights` for the lexical tower.

    Attributes:
        tokens: None where the encoder has no transformer.
        terms: None where it has no lexical tower.
    """

    tokens: TextTokens | None
    terms: LexicalTerms | None

    @staticmethod
    def fit(config: EncoderConfig, texts: Sequence[str]) -> tuple[TextReader, np.ndarray | None]:
        """A reader for a catalogue's texts, and the table of the lexical tower, where there is one."""
        tokens, terms, table = None, None, None
        if config.text.is_on:
            own = None if config.text.preset else make_vocabulary(texts, config.text.vocabulary_size)
            tokens = TextTokens(config.text, own)
        if config.lexical.is_on:
            names, table = fit_terms(texts, config.lexical)
            terms = LexicalTerms(config.lexical, names)
        return TextReader(tokens, terms), table

    def __call__(self, texts: Any) -> dict[str, Any]:
        """Texts [B] → `token_ids` int32 and `token_mask` bool [B, T], `term_ids` int32 and `term_weights` [B, K]."""
        read = {}
        if self.tokens is not None:
            read["token_ids"], read["token_mask"] = self.tokens(texts)
        if self.terms is not None:
            read["term_ids"], read["term_weights"] = self.terms(texts)
        return read

    @property
    def tables(self) -> list[Any]:
        """What a SavedModel must track."""
        return [*([self.tokens.tokenizer] if self.tokens else []), *(self.terms.lookups if self.terms else [])]

    def save_to(self, folder: Path) -> None:
        """Writes the vocabularies that are the catalogue's own."""
        if self.tokens is not None and self.tokens.vocabulary is not None:
            (folder / _VOCABULARY).write_text("\n".join(self.tokens.vocabulary))
        if self.terms is not None:
            (folder / _TERMS).write_text("\n".join(self.terms.terms))

    @staticmethod
    def load_from(folder: Path, config: EncoderConfig) -> TextReader:
        """The reader that `save_to` wrote."""
        tokens, terms = None, None
        if config.text.is_on:
            own = folder / _VOCABULARY
            tokens = TextTokens(config.text, own.read_text().split("\n") if own.exists() else None)
        if config.lexical.is_on:
            terms = LexicalTerms(config.lexical, (folder / _TERMS).read_text().split("\n"))
        return TextReader(tokens, terms)
