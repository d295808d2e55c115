"""How one vector is stored, in every store: a header and the vector's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.representation_center.vectors import restore_vectors, store_vectors

MAX_ID_BYTES = 500


@dataclass(frozen=True)
class Found:
    """What a Center knows of some items.

    Attributes:
        version: Of the encoder all vectors are of.
        vectors: float32 [n, d]; zeros where `mask` is false.
        mask: bool [n], whether there is a vector.
        stored: bool [n], whether the item is known at all; an item without content is known and has no vector.
    """

    version: str
    vectors: np.ndarray
    mask: np.ndarray
    stored: np.ndarray


@dataclass(frozen=True)
class RecordFormat:
    """Records of one version: 16 bytes of content hash, 8 of time, 1 of modalities, then the vector.

    Args:
        dimension: Of the vectors.
        dtype: int8 or float16.
    """

    dimension: int
    dtype: str

    @property
    def _type(self) -> np.dtype:
        return np.dtype(
            [("hash", "V16"), ("event_time", "<f8"), ("modalities", "u1"), ("vector", self.dtype, (self.dimension,))]
        )

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self._type.itemsize

    def encode(
        self, content_hashes: Sequence[str], vectors: np.ndarray, modalities: np.ndarray, event_time: float | np.ndarray
    ) -> list[bytes]:
        """A record for each row; `event_time` in seconds since the epoch, one for all or [n]."""
        rows = np.zeros(len(vectors), self._type)
        rows["hash"] = np.frombuffer(bytes.fromhex("".join(content_hashes)), "V16")
        rows["event_time"], rows["modalities"] = event_time, modalities
        rows["vector"] = vectors if str(vectors.dtype) == self.dtype else store_vectors(vectors, self.dtype)
        data, size = rows.tobytes(), self.size
        return [data[start : start + size] for start in range(0, len(data), size)]

    def decode(self, records: Sequence[bytes | None], version: str) -> Found:
        """What `encode` made; None is an item that is not there."""
        if None in records:
            nothing = bytes(self.size)
            stored = np.array([record is not None for record in records], bool)
            rows = np.frombuffer(b"".join([r if r is not None else nothing for r in records]), self._type)
        else:
            stored = np.ones(len(records), bool)
            rows = np.frombuffer(b"".join(records), self._type)  # type: ignore[arg-type]
        return Found(version, restore_vectors(rows["vector"]), rows["modalities"] > 0, stored)

    def content_hash(self, record: bytes | None) -> str | None:
        """The content hash of one record."""
        return None if record is None else record[:16].hex()

    def event_time(self, record: bytes) -> float:
        """The time of one record, seconds since the epoch."""
        return float(np.frombuffer(record[16:24], "<f8")[0])
