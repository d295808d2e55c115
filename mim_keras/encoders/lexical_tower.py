"""A lexical tower: which words and pairs of words a text has, as latent semantic analysis sees them, and its tags.

Where no pretrained weights are at hand, this knows names, places and themes of a catalogue that a transformer trained
on a few thousand texts does not.  A tag is a word with a # before it, `#genre:comedy`: what is known of an item for
certain, and not to be lost among its words.  The tags of one field (`genre`; what stands before the colon) make a block
of features of their own.
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

from mim_keras.config import LexicalConfig
from mim_keras.encoders.normalise import normalise_blocks

PADDING_TERM = 0
_BATCH = 1024


class LexicalTerms:
    """Strings → the distinct terms in them and how much each counts.

    By TensorFlow operations, that also run inside a SavedModel.  A term is a word, in lower case and without
    punctuation, or two neighbours, or a tag; or a run of two to four letters.

    Args:
        config: What is read of a text, and the most terms of it.
        terms: Those known, tags last; row i + 1 of the tower is term i.
    """

    def __init__(self, config: LexicalConfig, terms: Sequence[str]) -> None:
        self.terms, self._length, self._line = list(terms), config.max_terms, config.line
        self._words = sum(not _is_tag(term) for term in self.terms)
        self.lookups = [(_letters if config.letters else _words)(self.terms[: self._words])]
        if self._words < len(self.terms):
            self.lookups.append(_tags(self.terms[self._words :]))

    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """Texts [B] → term ids int32 [B, max_terms], each once, tags and rare ones first, 0 is padding; and their
        weights, float [B, max_terms]: 1 + log(how often the text has it), 0 for padding."""
        import tensorflow as tf

        if self._line is not None:
            lines = tf.strings.split(texts, "\n").to_tensor("", shape=[None, None])
            there = tf.pad(lines, [[0, 0], [0, self._line + 1]], constant_values="")
            texts = there[:, self._line]
        found = []
        for lookup, first in zip(self.lookups, (0, self._words), strict=False):
            ids = tf.cast(lookup(texts), tf.int32) - 1  # the layer keeps 0 for padding and 1 for unknown
            found.append(tf.where(ids > PADDING_TERM, ids + first, PADDING_TERM))
        ids = tf.sort(tf.concat(found, axis=1))
        first, behind = (tf.searchsorted(ids, ids, side=side) for side in ("left", "right"))
        is_first = first == tf.range(tf.shape(ids)[1])[None, :]
        counts = tf.where(is_first & (ids != PADDING_TERM), behind - first, 0)
        order = tf.argsort(tf.where(counts > 0, ids, PADDING_TERM), direction="DESCENDING", stable=True)
        order = order[:, : self._length]
        counts, ids = (tf.gather(values, order, batch_dims=1) for values in (counts, ids))
        weights = tf.where(counts > 0, 1.0 + tf.math.log(tf.cast(tf.maximum(counts, 1), tf.float32)), 0.0)
        missing = [[0, 0], [0, self._length - tf.shape(ids)[1]]]
        return tf.pad(tf.where(counts > 0, ids, PADDING_TERM), missing), tf.pad(weights, missing)


def _is_tag(term: str) -> bool:
    return term.startswith("#")


def _words(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"#\S+|[^\pL\pN#\s]+", terms, ngrams=2)


def _letters(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"#\S+|[^\pL\s]+", terms, ngrams=(2, 3, 4), split="character", one_space=True)


def _tags(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return _vectorization(r"(^|\s)[^#\s]\S*|[,.;:!?]+(\s|$)", terms, ngrams=None)


def _vectorization(
    removed: str,
    terms: Sequence[str] | None,
    ngrams: int | tuple[int, ...] | None,
    split: str = "whitespace",
    one_space: bool = False,
) -> keras.layers.TextVectorization:
    def standardise(texts: Any) -> Any:
        import tensorflow as tf

        plain = tf.strings.regex_replace(tf.strings.lower(texts, encoding="utf-8"), removed, " ")
        return tf.strings.regex_replace(plain, r"\s", " ") if one_space else plain

    return keras.layers.TextVectorization(
        standardize=standardise,
        split=split,
        ngrams=ngrams,
        output_mode="int",
        vocabulary=list(terms) if terms else None,
    )


def _count(layer: keras.layers.TextVectorization, texts: Sequence[str], min_count: int, most: int) -> Counted:
    """Which terms the texts have that occur in `min_count` of them, the `most` frequent."""
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
    texts_with = np.bincount(column, minlength=len(vocabulary))
    kept = np.flatnonzero(texts_with >= min_count)
    kept = np.sort(kept[np.argsort(-texts_with[kept], kind="stable")][:most])
    return Counted(vocabulary, texts_with, row, column, weight).only(kept)


class Counted(NamedTuple):
    """Terms of n texts.

    Attributes:
        names: The terms, the most frequent first.
        texts_with: How many texts have each, int64 [terms].
        row, column, weight: A text, a term it has, and 1 + log(how often), [entries] each.
    """

    names: list[str]
    texts_with: np.ndarray
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray

    def only(self, terms: np.ndarray) -> Counted:
        """Some of the terms, by their places, int64 [k]."""
        place = np.full(len(self.names), -1, np.int64)
        place[terms] = np.arange(len(terms))
        use = place[self.column] >= 0
        names = [self.names[term] for term in terms]
        return Counted(names, self.texts_with[terms], self.row[use], place[self.column[use]], self.weight[use])


def fit_terms(texts: Sequence[str], config: LexicalConfig) -> tuple[list[str], np.ndarray]:
    """Terms worth knowing of the catalogue's texts, and the tower's table: their directions in latent space.

    For words the table is idf · V of the truncated singular value decomposition U S Vᵀ of the texts' TF-IDF matrix, so
    that the weighted sum over a text's terms is its place in the space of the `width` strongest directions.  The tags
    of a field have a block of columns behind these: a column a tag, or where there are more than `tag_width` of them,
    so many directions made likewise.

    Args:
        texts: One an item, the title its first line; empty ones are left out.
        config: How many terms, and how wide.

    Returns:
        Terms, words before tags, tags field by field, and float32 [terms, all blocks' widths].

    Raises:
        ValueError: there is no term that occurs in `min_count` texts.

    Source: Deerwester et al. 1990, Indexing by latent semantic analysis.
    """
    if config.line is not None:
        texts = [[*text.split("\n"), *[""] * config.line][config.line] for text in texts]
    texts = [text for text in texts if text.strip()] or [""]
    words = _count((_letters if config.letters else _words)(), texts, config.min_count, config.terms)
    if not words.names:
        raise ValueError(
            f"a lexical tower needs terms; of what it reads ({config.of}), none occurs in lexical.min_count = "
            f"{config.min_count} of {len(texts)} texts. Lower it, or leave this lexical tower out."
        )
    names, tables = words.names, [_directions(words, len(texts), config.width)]
    if config.tags:
        tags = _count(_tags(), texts, config.min_count, config.tags)
        fields = np.array([_field(name) for name in tags.names], object)
        for field in sorted(set(fields)):
            own = tags.only(np.flatnonzero(fields == field))
            names = names + own.names
            small = len(own.names) <= config.tag_width
            tables.append(np.eye(len(own.names)) if small else _directions(own, len(texts), config.tag_width))
    return names, block_diag(*tables).astype(np.float32)


def block_widths(terms: Sequence[str], config: LexicalConfig) -> tuple[int, ...]:
    """Widths of the blocks of features that `fit_terms` makes of these terms: words, then each field of tags."""
    sizes: dict[str, int] = {}
    for term in terms:
        if _is_tag(term):
            sizes[_field(term)] = sizes.get(_field(term), 0) + 1
    return (config.width, *(min(size, config.tag_width) for size in sizes.values()))


def _field(tag: str) -> str:
    return tag.split(":", 1)[0] if ":" in tag else "#"


def _directions(terms: Counted, texts: int, width: int) -> np.ndarray:
    """idf · V of the terms' TF-IDF matrix, [terms, width]; zeros where there are fewer texts or terms than that."""
    idf = np.log((1 + texts) / (1 + terms.texts_with)) + 1
    shape = (texts, len(terms.names))
    matrix = csr_matrix((terms.weight * idf[terms.column], (terms.row, terms.column)), shape=shape)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = csr_matrix(matrix.multiply(1 / np.maximum(lengths, 1e-9)[:, None]))
    table = np.zeros((len(terms.names), width))
    directions = min(width, min(shape) - 1)
    if directions > 0:
        start = np.random.default_rng(0).normal(size=min(shape))
        _, strength, v = svds(matrix.astype(np.float64), k=directions, v0=start)
        table[:, :directions] = (v[np.argsort(-strength)] * idf).T
    return table


@keras.saving.register_keras_serializable("mim")
class LexicalTower(keras.layers.Layer):
    """Term ids → features: the weighted sum of the terms' rows, each block of it of length one.

    Args:
        terms: How many are known.
        blocks: Widths of the blocks, from `block_widths`.

    `table` float32 [terms + 1, width] is set from `fit_terms`, by `fill`, and is not trained.  Call takes term ids
    int [B, T] and weights [B, T], 0 for padding, and returns features [B, width]; zeros in a block of which the text
    has no term.
    """

    def __init__(self, terms: int, blocks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.terms, self.blocks = terms, tuple(blocks)
        self.width = sum(self.blocks)

    def build(self, term_ids_shape: tuple, term_weights_shape: tuple) -> None:
        # Known, not learned: a few thousand texts would be learned by heart.
        shape = (self.terms + 1, self.width)
        self.table = self.add_weight(shape=shape, initializer="random_normal", trainable=False, name="table")

    def fill(self, table: np.ndarray) -> None:
        """Sets the rows of the known terms, float [terms, width]."""
        self.table.assign(np.concatenate([np.zeros((1, self.width)), table]).astype(np.float32))

    def call(self, term_ids: Any, term_weights: Any) -> Any:
        weights = ops.cast(term_weights, self.compute_dtype)[:, None, :]  # (B, 1, T)
        total = ops.matmul(weights, ops.take(self.table, term_ids, axis=0))[:, 0]  # (B, width)
        return normalise_blocks(total, self.blocks)

    def compute_output_shape(self, term_ids_shape: tuple, term_weights_shape: tuple) -> tuple:
        return (term_ids_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "terms": self.terms, "blocks": list(self.blocks)}
