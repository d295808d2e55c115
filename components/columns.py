"""Batches of rows as columns: what every component does with them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Columns = dict[str, pa.Array]


def concatenate(batches: Iterable[Columns]) -> Columns:
    """Joins batches of equal columns end to end."""
    parts = list(batches)
    return {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}


def take(columns: Columns, rows: np.ndarray) -> Columns:
    """The rows of `columns` that `rows` (indices or a mask) names."""
    if rows.dtype == bool:
        keep = pa.array(rows)
        return {name: values.filter(keep) for name, values in columns.items()}
    return {name: values.take(pa.array(rows)) for name, values in columns.items()}


def hash_buckets(values: pa.Array, buckets: int) -> np.ndarray:
    """A bucket in [0, buckets) for each value, int64 [n]; the same on every machine and in every run."""
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary.cast(pa.binary()).to_pylist()
    codes = np.fromiter(map(zlib.crc32, distinct), np.int64, len(distinct)) % buckets
    found: np.ndarray = codes[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def ranks(values: pa.Array) -> np.ndarray:
    """Rank of each value among the sorted distinct values, int64 [n]; independent of the order of the rows."""
    encoded = values.dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    return rank[encoded.indices.to_numpy(zero_copy_only=False)]


def matrix_to_lists(matrix: np.ndarray) -> pa.ListArray:
    """The rows of a matrix as lists."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def lists_to_matrix(lists: pa.ListArray, width: int) -> np.ndarray:
    """Lists of `width` numbers each as a matrix [n, width]; the inverse of `matrix_to_lists`."""
    matrix: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix
