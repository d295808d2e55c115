"""Reads the pairs that PairGen wrote, as rows of one content table."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.columns import Columns, concatenate
from components.examples import DECODE_ROWS, decode
from mim_keras.config import SIGNALS
from mim_keras.layers import KnownPositives
from mim_keras.layers.base import PADDING_ROW
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor
from tfx_pipeline.run_fns.catalogue import Catalogue

LISTS = ("query_item_ids", "hard_item_ids")


@dataclass(frozen=True)
class Pairs:
    """n pairs; rows are those of a content table, from 1; 0 is padding.

    Attributes:
        query_rows: int [n, L]; 0 before the first where a query has fewer.
        item_row: int [n].
        hard_rows: int [n, K]; 0 after the last where a pair has fewer.
        key: Pairs of one key share their positives, int [n].
        is_intent: Whether the query was content of its own, bool [n].
        signal: What the query led to, the place in `SIGNALS`, int [n].
    """

    query_rows: np.ndarray
    item_row: np.ndarray
    hard_rows: np.ndarray
    key: np.ndarray
    is_intent: np.ndarray
    signal: np.ndarray

    def __len__(self) -> int:
        return len(self.item_row)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """As `Csft` takes them, int32 each."""
        columns = {"query_rows": self.query_rows, "item_row": self.item_row, "hard_negative_rows": self.hard_rows}
        return {name: values.astype(np.int32) for name, values in {**columns, "key": self.key}.items()}

    def of_signal(self, least: str, seed: int, most: int = 16) -> Pairs:
        """The pairs whose signal is `least` or stronger.  Items that their key led to by weaker signals alone, clicked
        and not bought, become hard negatives of each of its pairs.

        Args:
            least: One of `SIGNALS`.
            seed: Of the choice, where a key has more such items than `most`.
            most: Hard negatives that a pair gains at most.
        """
        strong = self.signal >= SIGNALS.index(least)
        if strong.all():
            return self
        kept = self._only(strong)
        if not len(kept):
            return kept
        liked = KnownPositives.from_pairs(kept.key, kept.item_row)
        weak = ~strong & ~liked.contains(self.key, self.item_row[:, None])[:, 0]
        if not weak.any():
            return kept
        merely = KnownPositives.from_pairs(self.key[weak], self.item_row[weak])
        gained = merely.sample(kept.key, most, np.random.default_rng(seed))
        return replace(kept, hard_rows=np.concatenate([kept.hard_rows, gained], axis=1))

    def _only(self, keep: np.ndarray) -> Pairs:
        return Pairs(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def with_same_category(self, categories: list[list[str]], count: int, seed: int) -> Pairs:
        """These pairs with `count` further hard negatives each, drawn from the items of one of its item's categories.

        Args:
            categories: Of the content table's first rows, the catalogue.
            count: Draws for each pair; one that hits the item itself, or has no category to draw from, is absent.
            seed: Of the draws.
        """
        names = sorted({name for own in categories for name in own})
        place = {name: number for number, name in enumerate(names)}
        item = self.item_row - 1
        category = np.array([place[name] for own in categories for name in own], np.int64)
        row = np.repeat(np.arange(len(categories)), [len(own) for own in categories])
        begin = np.searchsorted(row, np.arange(len(categories) + 1))  # of each row's categories
        by_category = np.argsort(category, kind="stable")
        first = np.searchsorted(category[by_category], np.arange(len(names) + 1))  # of each category's rows
        rng, shape = np.random.default_rng(seed), (len(self), count)
        own = (begin[item + 1] - begin[item])[:, None]
        drawn = np.full(shape, PADDING_ROW, np.int32)
        if len(category):
            at = begin[item][:, None] + (rng.random(shape) * own).astype(np.int64)
            chosen = category[np.minimum(at, len(category) - 1)]
            members = first[chosen] + (rng.random(shape) * (first[chosen + 1] - first[chosen])).astype(np.int64)
            found = row[by_category[members]] + 1
            drawn = np.where((own > 0) & (found != self.item_row[:, None]), found, PADDING_ROW).astype(np.int32)
        return replace(self, hard_rows=np.concatenate([self.hard_rows, drawn], axis=1))

    def without_liked(self, positives: KnownPositives) -> Pairs:
        """These pairs, less the hard negatives that their key is known to like, at another time say."""
        return replace(
            self, hard_rows=np.where(positives.contains(self.key, self.hard_rows), PADDING_ROW, self.hard_rows)
        )


def read_pairs(
    patterns: tuple[list[str], list[str]], catalogue: Catalogue, preprocessor: ContentPreprocessor
) -> tuple[Pairs, Pairs, ContentDataset]:
    """Pairs of both splits, and their content table: the catalogue first, then each query's own content.

    Raises:
        ValueError: fewer than two training pairs.
    """
    place = {item_id: row for row, item_id in enumerate(catalogue.item_id, 1)}
    own = _OwnContent(catalogue)
    splits = [_read_split(files) for files in patterns]
    if not splits[0] or len(splits[0]["item_id"]) < 2:
        made = len(splits[0]["item_id"]) if splits[0] else 0
        raise ValueError(
            f"C-SFT needs at least 2 training pairs; PairGen made {made}. "
            "Widen data.pairs.window_seconds, or bring a longer click log or intents."
        )
    lengths = [max(_longest(split, name) for split in splits) for name in LISTS]
    train, valid = (_pairs(split, place, own, max(1, lengths[0]), lengths[1]) for split in splits)
    return train, valid, ContentDataset(preprocessor, *own.columns())


def _read_split(patterns: list[str]) -> Columns:
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    decoder = ExamplesToRecordBatchDecoder(_schema().SerializeToString())
    batches = tf.data.TFRecordDataset(files, "GZIP").batch(DECODE_ROWS).as_numpy_iterator()
    parts = [decode(decoder, list(batch), lists=LISTS) for batch in batches]
    return concatenate(parts) if parts else {}


def _schema() -> schema_pb2.Schema:
    """Told beforehand, since a feature without any value in a batch shows no type."""
    texts = ("query_image", "query_text", "item_id", "user_id", "signal", *LISTS)
    return schema_pb2.Schema(feature=[schema_pb2.Feature(name=name, type=schema_pb2.BYTES) for name in texts])


def _longest(columns: Columns, name: str) -> int:
    return int(np.diff(columns[name].offsets.to_numpy()).max(initial=0)) if columns else 0


class _OwnContent:
    """The catalogue's content, and behind it that of queries that are no item; each once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._image, self._title, self._text = list(catalogue.image), list(catalogue.title), list(catalogue.text)
        self._embeddings, self._items = catalogue.embeddings, len(catalogue.image)
        self._rows: dict[tuple[bytes, bytes], int] = {}

    def row(self, image: bytes, text: bytes) -> int:
        """Row of a query's picture and words, from 1."""
        if (image, text) not in self._rows:
            self._rows[image, text] = len(self._image) + 1
            self._image.append(image)
            self._title.append(text)
            self._text.append(b"")
        return self._rows[image, text]

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Pictures, titles, texts and ready-made embeddings of all rows; queries have none of the last."""

        def column(values: list[bytes]) -> np.ndarray:
            array = np.empty(len(values), object)
            array[:] = values
            return array

        queries = len(self._image) - self._items
        embeddings = {name: np.pad(values, ((0, queries), (0, 0))) for name, values in self._embeddings.items()}
        return column(self._image), column(self._title), column(self._text), embeddings


def _pairs(columns: Columns, place: dict[bytes, int], own: _OwnContent, length: int, hard: int) -> Pairs:
    count = len(columns["item_id"]) if columns else 0
    query_rows = np.full((count, length), PADDING_ROW, np.int32)
    hard_rows = np.full((count, hard), PADDING_ROW, np.int32)
    item_row, is_intent = np.zeros(count, np.int32), np.zeros(count, bool)
    if not count:
        return Pairs(query_rows, item_row, hard_rows, np.zeros(0, np.int32), is_intent, np.zeros(0, np.int8))
    query_rows[:] = _laid_out(columns["query_item_ids"], place, length, at_end=True)
    hard_rows[:] = _laid_out(columns["hard_item_ids"], place, hard, at_end=False)
    item_row[:] = [place[item] for item in columns["item_id"].to_pylist()]
    is_intent[:] = (query_rows == PADDING_ROW).all(axis=1)
    images, texts = columns["query_image"].to_pylist(), columns["query_text"].to_pylist()
    for row in np.flatnonzero(is_intent):
        query_rows[row, -1] = own.row(images[row], texts[row])
    users = columns["user_id"].to_pylist()
    codes: dict[object, int] = {}
    keys = (users[row] or int(query_rows[row, -1]) for row in range(count))
    key = np.array([codes.setdefault(value, len(codes)) for value in keys], np.int32)
    signal = np.array([SIGNALS.index(value.decode()) for value in columns["signal"].to_pylist()], np.int8)
    return Pairs(query_rows, item_row, hard_rows, key, is_intent, signal)


def _laid_out(lists: pa.ListArray, place: dict[bytes, int], width: int, at_end: bool) -> np.ndarray:
    """Lists of ids as a table of rows, int32 [n, width]."""
    offsets, values = lists.offsets.to_numpy(), lists.values.to_pylist()
    sizes = np.diff(offsets)
    table = np.full((len(sizes), width), PADDING_ROW, np.int32)
    inside = np.arange(width)[None, :] < sizes[:, None]
    rows = np.fromiter((place[value] for value in values[offsets[0] : offsets[-1]]), np.int32)
    table[inside] = rows
    if at_end:
        shift = (np.arange(width)[None, :] + sizes[:, None]) % width
        table = np.take_along_axis(table, shift, axis=1)
    return table
