"""A lexical tower: which words and pairs of words a text has, as latent semantic analysis sees them.

Where no pretrained weights are at hand, this knows names, places and themes of a catalogue that a transformer trained
on a few thousand texts does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import LexicalConfig, from_mapping, to_mapping

PADDING_TERM = 0
_BATCH = 1024


class LexicalTerms:
    """Strings → the distinct terms in them, by TensorFlow operations that also run inside a SavedModel.

    A term is a word, in lower case and without punctuation, or two neighbours.

    Args:
        config: The most terms that are read of a text.
        terms: Those known, the most frequent first; row i + 1 of the tower is term i.
    """

    def __init__(self, config: LexicalConfig, terms: Sequence[str]) -> None:
        self.terms, self._length = list(terms), config.max_terms
        self.lookup = _vectorization(self.terms)

    def __call__(self, texts: Any) -> Any:
        """Texts [B] → term ids int32 [B, max_terms], each once, rare ones first; 0 is padding."""
        import tensorflow as tf

        ids = tf.cast(self.lookup(texts), tf.int32) - 1  # the layer keeps 0 for padding and 1 for unknown
        ids = tf.sort(tf.maximum(ids, PADDING_TERM), direction="DESCENDING")
        again = tf.concat([tf.zeros_like(ids[:, :1], tf.bool), ids[:, 1:] == ids[:, :-1]], axis=1)
        ids = tf.sort(tf.where(again, PADDING_TERM, ids), direction="DESCENDING")[:, : self._length]
        return tf.pad(ids, [[0, 0], [0, self._length - tf.shape(ids)[1]]])


def _vectorization(terms: Sequence[str] | None = None) -> keras.layers.TextVectorization:
    return keras.layers.TextVectorization(ngrams=2, output_mode="int", vocabulary=list(terms) if terms else None)


def fit_terms(texts: Sequence[str], config: LexicalConfig) -> tuple[list[str], np.ndarray]:
    """Terms worth knowing of the catalogue's texts, and the tower's table: their directions in latent space.

    The table is idf · V of the truncated singular value decomposition U S Vᵀ of the texts' TF-IDF matrix, so that the
    sum over a text's terms is its place in the space of the `width` strongest directions.

    Args:
        texts: One an item; empty ones are left out.
        config: How many terms, and how wide.

    Returns:
        Terms, the most frequent first, and float32 [terms, width]; a catalogue with fewer texts or terms than `width`
        leaves further columns zero.

    Raises:
        ValueError: there is no term that occurs in `min_count` texts.

    Source: Deerwester et al. 1990, Indexing by latent semantic analysis.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    texts = [text for text in texts if text]
    layer = _vectorization()
    if texts:
        layer.adapt(np.array(texts, object), batch_size=_BATCH)
    vocabulary = layer.get_vocabulary()[2:]
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for begin in range(0, len(texts) if vocabulary else 0, _BATCH):
        ids = ops.convert_to_numpy(layer(np.array(texts[begin : begin + _BATCH], object))) - 2
        row, _ = np.nonzero(ids >= 0)
        pairs = np.unique(np.stack([row + begin, ids[ids >= 0]]), axis=1)
        rows.append(pairs[0])
        columns.append(pairs[1])
    row, column = np.concatenate(rows), np.concatenate(columns)
    texts_with = np.bincount(column, minlength=len(vocabulary))
    kept = np.flatnonzero(texts_with >= config.min_count)
    kept = np.sort(kept[np.argsort(-texts_with[kept], kind="stable")][: config.terms])
    if not len(kept):
        raise ValueError(
            f"a lexical tower needs terms; none occurs in encoder.lexical.min_count = {config.min_count} of "
            f"{len(texts)} texts. Lower it, or set encoder.lexical.terms to 0."
        )
    place = np.full(len(vocabulary), -1, np.int64)
    place[kept] = np.arange(len(kept))
    use = place[column] >= 0
    row, column = row[use], place[column[use]]
    idf = np.log((1 + len(texts)) / (1 + texts_with[kept])) + 1
    matrix = csr_matrix((idf[column], (row, column)), shape=(len(texts), len(kept)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = csr_matrix(matrix.multiply(1 / np.maximum(lengths, 1e-9)[:, None]))
    table = np.zeros((len(kept), config.width), np.float32)
    directions = min(config.width, min(matrix.shape) - 1)
    if directions > 0:
        start = np.random.default_rng(0).normal(size=min(matrix.shape))
        _, strength, v = svds(matrix.astype(np.float64), k=directions, v0=start)
        order = np.argsort(-strength)
        table[:, :directions] = (v[order] * idf).T
    return [vocabulary[i] for i in kept], table


@keras.saving.register_keras_serializable("mim")
class LexicalTower(keras.layers.Layer):
    """Term ids → features of length one: the sum of the terms' rows.

    Args:
        config: Width, and the most terms of a text.
        terms: How many are known.

    `table` float32 [terms + 1, width] is set from `fit_terms`, by `fill`.  Call takes term ids int [B, T], 0 for
    padding, and returns features [B, width]; zeros for a text of which no term is known.
    """

    def __init__(self, config: LexicalConfig, terms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.terms, self.width = config, terms, config.width

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(shape=(self.terms + 1, self.width), initializer="random_normal", name="table")

    def fill(self, table: np.ndarray) -> None:
        """Sets the rows of the known terms, float [terms, width]."""
        self.table.assign(np.concatenate([np.zeros((1, self.width)), table]).astype(np.float32))

    def call(self, term_ids: Any) -> Any:
        present = ops.cast(term_ids != PADDING_TERM, self.compute_dtype)[..., None]  # (B, T, 1)
        total = ops.sum(ops.take(self.table, term_ids, axis=0) * present, axis=1)
        return total * ops.rsqrt(ops.maximum(ops.sum(ops.square(total), axis=-1, keepdims=True), 1e-12))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        return (input_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": to_mapping(self.config), "terms": self.terms}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LexicalTower:
        return cls(from_mapping(LexicalConfig, config.pop("config")), **config)
