"""N-grams of texts, and the table of an LSA tower.

Without pretrained weights, latent semantic analysis of a catalogue captures names and themes that a transformer trained
on a few thousand texts does not.  A tag is a word that starts with #, such as `#genre:comedy`: an
attribute of the item, which must not be lost among its words.  The tags of one field (`genre`; what comes before the
colon) form a group of features of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from scipy.linalg import block_diag
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from mim_keras.config import LSATowerConfig

PADDING_TERM = 0
_BATCH = 1024


class NGramTokenizer:
    """Texts → the distinct terms of each, and their weights.

    Runs as TensorFlow operations, also inside a SavedModel.  A term is a word, lower-cased and without punctuation, or
    a bigram, or a tag; or, by settings, a character n-gram of 2 to 4.

    Args:
        config: What is read of a text, and the most terms of it.
        terms: The vocabulary, tags last; row i + 1 of the tower's table is term i.

    Example:
        >>> from mim_keras.config import LSATowerConfig
        >>> from mim_keras.preprocessing.ngrams import NGramTokenizer
        >>> tokenizer = NGramTokenizer(LSATowerConfig(max_features=9, max_terms=3), ["red", "mug"])
        >>> term_ids, weights = tokenizer(["mug red mug"])
        >>> term_ids.numpy().tolist(), weights.numpy().round(2).tolist()
        ([[2, 1, 0]], [[1.690000057220459, 1.0, 0.0]])
    """

    def __init__(self, config: LSATowerConfig, terms: Sequence[str]) -> None:
        self.terms, self._length, self._line = list(terms), config.max_terms, config.line
        self._num_words = sum(not _is_tag(term) for term in self.terms)
        self.lookups = [(_char_ngrams if config.char_ngrams else _word_ngrams)(self.terms[: self._num_words])]
        if self._num_words < len(self.terms):
            self.lookups.append(_tag_tokens(self.terms[self._num_words :]))

    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """Texts [B] → term ids int32 [B, max_terms], each once, tags and rare terms first, 0 is padding; and weights
        float [B, max_terms]: 1 + log(count in the text), 0 for padding."""
        import tensorflow as tf

        if self._line is not None:
            lines = tf.strings.split(texts, "\n").to_tensor("", shape=[None, None])
            padded_lines = tf.pad(lines, [[0, 0], [0, self._line + 1]], constant_values="")
            texts = padded_lines[:, self._line]
        ids_by_kind = []
        for lookup, first in zip(self.lookups, (0, self._num_words), strict=False):
            ids = tf.cast(lookup(texts), tf.int32) - 1  # Keras keeps 0 for padding and 1 for unknown
            ids_by_kind.append(tf.where(ids > PADDING_TERM, ids + first, PADDING_TERM))
        ids = tf.sort(tf.concat(ids_by_kind, axis=1))
        left, right = (tf.searchsorted(ids, ids, side=side) for side in ("left", "right"))
        is_first = left == tf.range(tf.shape(ids)[1])[None, :]
        counts = tf.where(is_first & (ids != PADDING_TERM), right - left, 0)
        by_rarity = tf.argsort(tf.where(counts > 0, ids, PADDING_TERM), direction="DESCENDING", stable=True)
        by_rarity = by_rarity[:, : self._length]
        counts, ids = (tf.gather(values, by_rarity, batch_dims=1) for values in (counts, ids))
        weights = tf.where(counts > 0, 1.0 + tf.math.log(tf.cast(tf.maximum(counts, 1), tf.float32)), 0.0)
        padding = [[0, 0], [0, self._length - tf.shape(ids)[1]]]
        return tf.pad(tf.where(counts > 0, ids, PADDING_TERM), padding), tf.pad(weights, padding)


def fit_lsa(texts: Sequence[str], config: LSATowerConfig) -> tuple[list[str], np.ndarray]:
    """The vocabulary of a catalogue's texts, and the table of its `LSATower`.

    For words the table is idf · V of the truncated singular value decomposition U S Vᵀ of the texts' TF-IDF matrix, so
    that the weighted sum over a text's terms is its projection onto the `output_dim` strongest directions.  The tags of
    a field have a group of columns of their own: one a tag, or, with more than `tag_dim` tags, `tag_dim` directions.

    Args:
        texts: One an item, the title its first line; empty ones are left out.
        config: Sizes.

    Returns:
        Terms, words before tags, tags field by field; and float32 [terms, sum of `lsa_group_dims`].

    Raises:
        ValueError: no term occurs in `min_df` texts.

    Source: Deerwester et al. 1990, Indexing by latent semantic analysis.
    """
    if config.line is not None:
        texts = [[*text.split("\n"), *[""] * config.line][config.line] for text in texts]
    texts = [text for text in texts if text.strip()] or [""]
    make_words = _char_ngrams if config.char_ngrams else _word_ngrams
    words = _count_terms(make_words(), texts, config.min_df, config.max_features)
    if not words.names:
        raise ValueError(
            f"an LSA tower needs terms; of what it reads (lsa.field={config.field}), no term occurs in lsa.min_df = "
            f"{config.min_df} of {len(texts)} texts. Lower it, or leave this tower out."
        )
    names, tables = words.names, [_truncated_svd(words, len(texts), config.output_dim)]
    if config.max_tags:
        tags = _count_terms(_tag_tokens(), texts, config.min_df, config.max_tags)
        fields = np.array([_field(name) for name in tags.names], object)
        for field in sorted(set(fields)):
            of_field = tags.select(np.flatnonzero(fields == field))
            names = names + of_field.names
            one_hot = len(of_field.names) <= config.tag_dim
            tables.append(
                np.eye(len(of_field.names)) if one_hot else _truncated_svd(of_field, len(texts), config.tag_dim)
            )
    return names, block_diag(*tables).astype(np.float32)


def lsa_group_dims(terms: Sequence[str], config: LSATowerConfig) -> tuple[int, ...]:
    """Widths of the groups of features that `fit_lsa` makes of these terms: words, then each field of tags."""
    sizes: dict[str, int] = {}
    for term in terms:
        if _is_tag(term):
            sizes[_field(term)] = sizes.get(_field(term), 0) + 1
    return (config.output_dim, *(min(size, config.tag_dim) for size in sizes.values()))


class TermCounts(NamedTuple):
    """The terms of n texts.

    Attributes:
        names: The terms, the most frequent first.
        document_frequency: How many texts have each, int64 [terms].
        row, column, weight: A text, a term it has, and 1 + log(count), [entries] each.
    """

    names: list[str]
    document_frequency: np.ndarray
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray

    def select(self, terms: np.ndarray) -> TermCounts:
        """Some of the terms, by their indices, int64 [k]."""
        new_column = np.full(len(self.names), -1, np.int64)
        new_column[terms] = np.arange(len(terms))
        use = new_column[self.column] >= 0
        names = [self.names[term] for term in terms]
        frequency = self.document_frequency[terms]
        return TermCounts(names, frequency, self.row[use], new_column[self.column[use]], self.weight[use])


def _count_terms(
    layer: keras.layers.TextVectorization, texts: Sequence[str], min_df: int, max_features: int
) -> TermCounts:
    """The `max_features` most frequent terms that occur in `min_df` texts."""
    layer.adapt(np.array(texts, object), batch_size=_BATCH)
    vocabulary = [str(term) for term in layer.get_vocabulary()[2:]]
    rows, columns, weights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for begin in range(0, len(texts) if vocabulary else 0, _BATCH):
        ids = ops.convert_to_numpy(layer(np.array(texts[begin : begin + _BATCH], object))) - 2
        row, _ = np.nonzero(ids >= 0)
        pairs, count = np.unique(np.stack([row + begin, ids[ids >= 0]]), axis=1, return_counts=True)
        rows.append(pairs[0])
        columns.append(pairs[1])
        weights.append(1 + np.log(count))
    row, column, weight = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
    frequency = np.bincount(column, minlength=len(vocabulary))
    kept = np.flatnonzero(frequency >= min_df)
    kept = np.sort(kept[np.argsort(-frequency[kept], kind="stable")][:max_features])
    return TermCounts(vocabulary, frequency, row, column, weight).select(kept)


def _truncated_svd(terms: TermCounts, num_texts: int, dim: int) -> np.ndarray:
    """idf · V of the terms' TF-IDF matrix, [terms, dim]; zero columns where there are fewer texts or terms."""
    idf = np.log((1 + num_texts) / (1 + terms.document_frequency)) + 1
    shape = (num_texts, len(terms.names))
    matrix = csr_matrix((terms.weight * idf[terms.column], (terms.row, terms.column)), shape=shape)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = csr_matrix(matrix.multiply(1 / np.maximum(norms, 1e-9)[:, None]))
    table = np.zeros((len(terms.names), dim))
    directions = min(dim, min(shape) - 1)
    if directions > 0:
        start = np.random.default_rng(0).normal(size=min(shape))
        _, singular_values, v = svds(matrix.astype(np.float64), k=directions, v0=start)
        table[:, :directions] = (v[np.argsort(-singular_values)] * idf).T
    return table


def _is_tag(term: str) -> bool:
    return term.startswith("#")


def _field(tag: str) -> str:
    return tag.split(":", 1)[0] if ":" in tag else "#"


def _word_ngrams(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"#\S+|[^\pL\pN#\s]+", terms, ngrams=2)


def _char_ngrams(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"#\S+|[^\pL\s]+", terms, ngrams=(2, 3, 4), split="character", single_spaces=True)


def _tag_tokens(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"(^|\s)[^#\s]\S*|[,.;:!?]+(\s|$)", terms, ngrams=None)


def _vectorization(
    removed: str,
    terms: Sequence[str] | None,
    ngrams: int | tuple[int, ...] | None,
    split: str = "whitespace",
    single_spaces: bool = False,
) -> keras.layers.TextVectorization:
    def standardize(texts: Any) -> Any:
        import tensorflow as tf

        plain = tf.strings.regex_replace(tf.strings.lower(texts, encoding="utf-8"), removed, " ")
        return tf.strings.regex_replace(plain, r"\s", " ") if single_spaces else plain

    return keras.layers.TextVectorization(
        standardize=standardize,
        split=split,
        ngrams=ngrams,
        output_mode="int",
        vocabulary=list(terms) if terms else None,
    )
