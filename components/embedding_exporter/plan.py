"""Decides for every item whether its vector is at hand or its content must be encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from components.embedding_exporter.catalogue import WANTED as WANTED_SCHEMA
from components.embedding_exporter.catalogue import Index, bucket_of
from components.metrics import counter
from serving.representation_center.snapshot import read_manifest, read_rows, shard_table
from serving.representation_center.vectors import store_vectors

ENCODED, COPIED, SHARED, EMPTY = "contents encoded", "items copied", "items of shared content", "items without content"
ROWS, WANTED = "rows", "wanted"


class ReadVectors(beam.DoFn):
    """Folder of the last snapshot → (bucket of the content hash, {content hash: stored vector})."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def process(self, folder: str) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        for rows in read_rows(folder, read_manifest(folder)):
            parts: dict[int, dict[bytes, bytes]] = {}
            for hexadecimal, vector, modalities in zip(rows.content_hashes, rows.vectors, rows.modalities, strict=True):
                hashed = bytes.fromhex(hexadecimal)
                if modalities:
                    parts.setdefault(bucket_of(hashed, self._buckets), {})[hashed] = vector.tobytes()
            yield from parts.items()


class Plan(beam.DoFn):
    """(bucket, {"index": …, "before": …}) → `ROWS`, tables of the items whose vector is known, and `WANTED`,
    (file, table of schema `WANTED_SCHEMA`) of contents to be encoded: each content once, however many items have it.

    Args:
        dimension: Of the vectors.
        dtype: They are stored as.
    """

    def __init__(self, dimension: int, dtype: str) -> None:
        self._dimension, self._dtype = dimension, dtype
        self._copied, self._shared = counter(COPIED), counter(SHARED)
        self._empty, self._encoded = counter(EMPTY), counter(ENCODED)

    def process(self, group: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        _, sides = group
        before: dict[bytes, bytes] = {}
        for part in sides["before"]:
            before.update(part)
        nothing = store_vectors(np.zeros((1, self._dimension)), self._dtype).tobytes()
        known: list[tuple[str, bytes, bytes, int]] = []
        others: dict[bytes, list[str]] = {}  # content hash → its items, but the one it is read from
        wanted: dict[str, list[tuple[int, bytes]]] = {}  # file → place, content hash
        parts: list[Index] = sorted(sides["index"], key=lambda part: (part["file"], part["place"][0]))
        for part in parts:
            columns = (part["place"].tolist(), part["item_id"].to_pylist(), part["content_hash"].to_pylist())
            for place, item_id, hashed, modalities in zip(*columns, part["modalities"].tolist(), strict=True):
                if not modalities:
                    self._empty.inc()
                    known.append((item_id, hashed, nothing, 0))
                elif hashed in before:
                    self._copied.inc()
                    known.append((item_id, hashed, before[hashed], modalities))
                elif hashed in others:
                    self._shared.inc()
                    others[hashed].append(item_id)
                else:
                    self._encoded.inc()
                    others[hashed] = []
                    wanted.setdefault(part["file"], []).append((place, hashed))
        if known:
            item_ids, hashes, vectors, masks = zip(*known, strict=True)
            stored = np.frombuffer(b"".join(vectors), self._dtype).reshape(-1, self._dimension)
            names = [hashed.hex() for hashed in hashes]
            yield beam.pvalue.TaggedOutput(ROWS, shard_table(list(item_ids), names, stored, np.array(masks)))
        for file, rows in wanted.items():
            also = [others[hashed] or None for _, hashed in rows]
            table = pa.table({"place": [place for place, _ in rows], "also": also}, schema=WANTED_SCHEMA)
            yield beam.pvalue.TaggedOutput(WANTED, (file, table))
