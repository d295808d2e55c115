"""Reads the catalogue's shards: first what every item's content is, later the content that must be encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.columns import Columns, lists_to_matrix
from components.examples import decode
from serving.representation_center.snapshot import IMAGE, TEXT, content_hash

RECORDS_A_READ = 512
ROWS_A_PLACE = 32_768
CONTENT = ("image", "title", "text")
HASH = pa.binary(16)
LENGTHS = (24, 48, 96, 192, 384, 768, 1536)  # bytes of words; texts of like length share a batch

Index = dict[str, Any]
ReadyMade = Sequence[dict[str, Any]]  # name, dim and modality of each embedding that the encoder reads


def read_shard(file: str) -> Iterator[tuple[int, list[bytes]]]:
    """(place of the first, serialised tf.Examples) of a gzipped TFRecord file, a few hundred at a time."""
    place = 0
    for batch in tf.data.TFRecordDataset(file, "GZIP").batch(RECORDS_A_READ).prefetch(2).as_numpy_iterator():
        yield place, list(batch)
        place += len(batch)


class ReadIndex(beam.DoFn):
    """File → (bucket of the content hash, index): what the content of each item is, without the content.

    An index has `file`, `place` int64 [n] (of the record in the file), `item_id` string, `content_hash` 16 bytes [n]
    and `modalities` uint8 [n].  A million of them wait at once, so they are Arrow arrays and not Python objects.

    Args:
        buckets: How many parts the plan is made in.
        ready_made: Embeddings that the encoder reads.
    """

    def __init__(self, buckets: int, ready_made: ReadyMade = ()) -> None:
        self._buckets, self._ready_made = buckets, ready_made

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, file: str) -> Iterator[tuple[int, Index]]:
        rows: list[tuple[int, str, bytes, int]] = []
        for first, records in read_shard(file):
            for place, (item_id, content) in enumerate(read_contents(self._decoder, records, self._ready_made), first):
                hashed = bytes.fromhex(content.hash)
                rows.append((place, item_id, hashed, content.modalities(self._ready_made)))
            if len(rows) >= ROWS_A_PLACE:
                yield from self._by_bucket(file, rows)
                rows = []
        yield from self._by_bucket(file, rows)

    def _by_bucket(self, file: str, rows: list[tuple[int, str, bytes, int]]) -> Iterator[tuple[int, Index]]:
        parts: dict[int, list[tuple[int, str, bytes, int]]] = {}
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
                    "content_hash": pa.array(hashed, HASH),
                    "modalities": np.array(modalities, np.uint8),
                },
            )


def bucket_of(hashed: bytes, buckets: int) -> int:
    """The part of the plan that a content hash belongs to."""
    return int.from_bytes(hashed[:2], "big") % buckets


WANTED = pa.schema([("place", pa.int64()), ("also", pa.list_(pa.string()))])
"""Records of one file to be encoded, and the further items that have the same content."""


@dataclass(frozen=True)
class Batch:
    """Content of one call of the encoder, and what it is for."""

    content: dict[str, np.ndarray]
    content_hash: list[str]
    modalities: np.ndarray
    item_ids: list[list[str]]


class ReadContent(beam.DoFn):
    """(file, tables of schema `WANTED`) → `Batch`es of like text length.

    Args:
        batch_size: Contents a batch.
        ready_made: Embeddings that the encoder reads.
    """

    def __init__(self, batch_size: int, ready_made: ReadyMade = ()) -> None:
        self._batch_size, self._ready_made = batch_size, ready_made

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, wanted_of_file: tuple[str, Iterable[pa.Table]]) -> Iterator[Batch]:
        file, parts = wanted_of_file
        wanted = pa.concat_tables(parts).sort_by("place").combine_chunks()
        places = wanted["place"].to_numpy()
        waiting: dict[int, list[_Entry]] = {}
        begin = 0
        for first, records in read_shard(file):
            end = int(np.searchsorted(places, first + len(records)))
            also = wanted["also"].slice(begin, end - begin).to_pylist()
            for entry in self._entries([records[place - first] for place in places[begin:end]], also):
                length = int(np.searchsorted(LENGTHS, len(entry.content.title) + len(entry.content.text)))
                queue = waiting.setdefault(length, [])
                queue.append(entry)
                if len(queue) == self._batch_size:
                    yield _batch(waiting.pop(length), self._ready_made)
            begin = end
            if begin == len(places):
                break
        left = [entry for length in sorted(waiting) for entry in waiting[length]]
        for start in range(0, len(left), self._batch_size):
            yield _batch(left[start : start + self._batch_size], self._ready_made)

    def _entries(self, records: list[bytes], also: list[list[str] | None]) -> Iterator[_Entry]:
        if records:
            contents = read_contents(self._decoder, records, self._ready_made)
            for (item_id, content), others in zip(contents, also, strict=True):
                yield _Entry(content, [item_id, *(others or ())])


class Content(NamedTuple):
    """What the encoder reads of an item.

    Attributes:
        image, title, text: Empty where there is none.
        embeddings: Ready-made ones, float32 bytes each, in the order of the encoder's.
    """

    image: bytes
    title: bytes
    text: bytes
    embeddings: tuple[bytes, ...]

    @property
    def hash(self) -> str:
        """See `content_hash`."""
        return content_hash(*self[:3], *self.embeddings)

    def modalities(self, ready_made: ReadyMade) -> int:
        """1 for a picture, 2 for words, 3 for both, 0 for neither; an embedding counts as what it was made from."""
        found = modalities_of(*self[:3])
        for one, vector in zip(ready_made, self.embeddings, strict=True):
            if any(vector):
                found |= IMAGE if one["modality"] == "image" else TEXT
        return found


class _Entry(NamedTuple):
    """Content to be encoded, and the items that have it."""

    content: Content
    item_ids: list[str]


def read_contents(
    decoder: ExamplesToRecordBatchDecoder, records: list[bytes], ready_made: ReadyMade
) -> Iterator[tuple[str, Content]]:
    """(item id, content) of serialised tf.Examples."""
    names = tuple(one["name"] for one in ready_made)
    columns: Columns = decode(decoder, records, names, only=("item_id", *CONTENT, *names))
    vectors = []
    for one in ready_made:
        found = lists_to_matrix(columns[one["name"]], one["dim"]).astype(np.float32)
        vectors.append([row.tobytes() for row in found])
    texts = zip(*(columns[name].to_pylist() for name in ("item_id", *CONTENT)), strict=True)
    for row, (item_id, image, title, text) in enumerate(texts):
        yield item_id.decode(), Content(image, title, text, tuple(own[row] for own in vectors))


def modalities_of(image: bytes, title: bytes, text: bytes) -> int:
    """1 for a picture, 2 for words, 3 for both, 0 for neither."""
    return IMAGE * bool(image) + TEXT * bool((title + text).strip())


def _batch(entries: list[_Entry], ready_made: ReadyMade) -> Batch:
    columns: dict[str, np.ndarray] = {}
    contents = [entry.content for entry in entries]
    for place, name in enumerate(CONTENT):
        columns[name] = np.empty(len(entries), object)
        columns[name][:] = [content[place] for content in contents]
    for place, one in enumerate(ready_made):
        joined = b"".join(content.embeddings[place] for content in contents)
        columns[one["name"]] = np.frombuffer(joined, np.float32).reshape(-1, one["dim"])
    return Batch(
        columns,
        [content.hash for content in contents],
        np.array([content.modalities(ready_made) for content in contents], np.uint8),
        [entry.item_ids for entry in entries],
    )
