"""Reads the catalogue's shards: first what every item's content is, later the content that must be encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.examples import Columns, decode
from serving.representation_center.snapshot import IMAGE, TEXT, content_hash

RECORDS_A_READ = 512
ROWS_A_PLACE = 32_768
CONTENT = ("image", "title", "text")
LENGTHS = (24, 48, 96, 192, 384, 768)  # bytes of words; texts of like length share a batch

Index = dict[str, Any]


def read_shard(file: str) -> Iterator[tuple[int, list[bytes]]]:
    """(place of the first, serialised tf.Examples) of a gzipped TFRecord file, a few hundred at a time."""
    place = 0
    for batch in tf.data.TFRecordDataset(file, "GZIP").batch(RECORDS_A_READ).prefetch(2).as_numpy_iterator():
        yield place, list(batch)
        place += len(batch)


class ReadIndex(beam.DoFn):
    """File → (bucket of the content hash, index): what the content of each item is, without the content.

    An index has `file`, `place` int64 [n] (of the record in the file), `item_id`, `content_hash` string [n] and
    `modalities` uint8 [n].

    Args:
        buckets: How many parts the plan is made in.
    """

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, file: str) -> Iterator[tuple[int, Index]]:
        rows: list[tuple[int, str, str, int]] = []
        for first, records in read_shard(file):
            columns = decode(self._decoder, records, only=("item_id", *CONTENT))
            contents = zip(*(columns[name].to_pylist() for name in ("item_id", *CONTENT)), strict=True)
            for place, (item_id, image, title, text) in enumerate(contents, first):
                modalities = IMAGE * bool(image) + TEXT * bool((title + text).strip())
                rows.append((place, item_id.decode(), content_hash(image, title, text), modalities))
            if len(rows) >= ROWS_A_PLACE:
                yield from self._by_bucket(file, rows)
                rows = []
        yield from self._by_bucket(file, rows)

    def _by_bucket(self, file: str, rows: list[tuple[int, str, str, int]]) -> Iterator[tuple[int, Index]]:
        parts: dict[int, list[tuple[int, str, str, int]]] = {}
        for row in rows:
            parts.setdefault(bucket_of(row[2], self._buckets), []).append(row)
        for bucket, part in parts.items():
            place, item_id, hashed, modalities = zip(*part, strict=True)
            yield (
                bucket,
                {
                    "file": file,
                    "place": np.array(place, np.int64),
                    "item_id": pa.array(item_id),
                    "content_hash": pa.array(hashed),
                    "modalities": np.array(modalities, np.uint8),
                },
            )


def bucket_of(hashed: str, buckets: int) -> int:
    """The part of the plan that a content hash belongs to."""
    return int(hashed[:4], 16) % buckets


@dataclass(frozen=True)
class Wanted:
    """Records of one file to be encoded: a record stands for every item of the same content.

    Attributes:
        place: int64 [n].
        content_hash: str [n].
        modalities: uint8 [n].
        item_ids: [n] lists of the items that share the content.
    """

    place: np.ndarray
    content_hash: list[str]
    modalities: np.ndarray
    item_ids: list[list[str]]


@dataclass(frozen=True)
class Batch:
    """Content of one call of the encoder, and what it is for."""

    content: dict[str, np.ndarray]
    content_hash: list[str]
    modalities: np.ndarray
    item_ids: list[list[str]]


class ReadContent(beam.DoFn):
    """(file, `Wanted` of it) → `Batch`es of like text length.

    Args:
        batch_size: Contents a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, wanted_of_file: tuple[str, Iterable[Wanted]]) -> Iterator[Batch]:
        file, parts = wanted_of_file
        rows = [
            (int(place), hashed, modalities, ids)
            for part in parts
            for place, hashed, modalities, ids in zip(
                part.place, part.content_hash, part.modalities, part.item_ids, strict=True
            )
        ]
        rows.sort()
        waiting: dict[int, list[Any]] = {}
        begin = 0
        for first, records in read_shard(file):
            end = begin
            while end < len(rows) and rows[end][0] < first + len(records):
                end += 1
            for content, row in zip(self._contents(records, first, rows[begin:end]), rows[begin:end], strict=True):
                length = int(np.searchsorted(LENGTHS, len(content[1]) + len(content[2])))
                queue = waiting.setdefault(length, [])
                queue.append((content, row))
                if len(queue) == self._batch_size:
                    yield _batch(waiting.pop(length))
            begin = end
            if begin == len(rows):
                break
        left = [entry for length in sorted(waiting) for entry in waiting[length]]
        for start in range(0, len(left), self._batch_size):
            yield _batch(left[start : start + self._batch_size])

    def _contents(self, records: list[bytes], first: int, rows: list[Any]) -> Iterable[tuple[bytes, bytes, bytes]]:
        if not rows:
            return ()
        columns: Columns = decode(self._decoder, [records[row[0] - first] for row in rows], only=CONTENT)
        return zip(*(columns[name].to_pylist() for name in CONTENT), strict=True)


def _batch(entries: list[Any]) -> Batch:
    contents, rows = zip(*entries, strict=True)
    columns = {}
    for name, values in zip(CONTENT, zip(*contents, strict=True), strict=True):
        columns[name] = np.empty(len(values), object)
        columns[name][:] = values
    _, hashes, modalities, item_ids = zip(*rows, strict=True)
    return Batch(columns, list(hashes), np.array(modalities, np.uint8), list(item_ids))
