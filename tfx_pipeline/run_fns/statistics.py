"""Reads the table of statistics that HistoryGen exported, by the rows of the ranker's item table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.columns import Columns, concatenate, lists_to_matrix
from components.examples import DECODE_ROWS, decode
from components.history_gen.point_in_time import flat_ranges
from components.history_gen.span_statistics import FIELDS
from components.history_gen.statistics_table import COUNTS, DATES, ITEMS, USERS, VALUES
from mim_keras.serving.statistics_lookup import EMPTY, AttributeCounts, StatisticsTable


def read_statistics(folder: str, attributes: Sequence[str], item_ids: np.ndarray) -> StatisticsTable:
    """The table in `folder`.

    Args:
        folder: Of the artifact.
        attributes: Names, in the order of the ranker's statistics.
        item_ids: Of the ranker's item table, without its padding row.
    """
    lists = [COUNTS, DATES, *(f"{name}_{kind}" for name in attributes for kind in ("values", "counts"))]
    items, values, users = (_read(folder, split, lists) for split in (ITEMS, VALUES, USERS))
    row = pc.index_in(pa.array([str(item).encode() for item in item_ids], pa.binary()), value_set=items["item_id"])
    known = row.is_valid().to_numpy(zero_copy_only=False)
    item_rows = row.fill_null(0).to_numpy(zero_copy_only=False)
    counts = np.where(known[:, None], _counts(items[COUNTS])[item_rows], np.array(EMPTY))
    by_name = values["attribute"].to_pylist()
    dates = np.zeros((len(items["item_id"]), 0), np.int64)
    if DATES in items:
        dates = items[DATES].flatten().to_numpy(zero_copy_only=False).reshape(len(dates), -1)

    def attribute(name: str) -> AttributeCounts:
        own = np.array([one == name.encode() for one in by_name], bool)
        names, value_counts = values["value"].filter(pa.array(own)), _counts(values[COUNTS])[own]
        offsets, codes = _codes(items, name, names)
        places, begins = flat_ranges(np.where(known, offsets[item_rows], 0), np.where(known, offsets[item_rows + 1], 0))
        user_offsets, user_values = _codes(users, name, names)
        pair_counts = _counts(users[f"{name}_counts"]) if f"{name}_counts" in users else np.zeros((0, 3), np.int64)
        owner = np.repeat(np.arange(len(user_offsets) - 1), np.diff(user_offsets))
        order = np.lexsort((user_values, owner))
        return AttributeCounts(
            values=np.array([*names.to_pylist(), None], object)[:-1],
            counts=value_counts,
            item_offsets=np.concatenate([[0], begins]),
            item_values=codes[places],
            user_offsets=np.concatenate([[0], user_offsets]),
            user_values=user_values[order],
            user_counts=pair_counts[order],
        )

    overall = by_name.index(b"")
    return StatisticsTable(
        as_of=int(values["as_of"][overall].as_py()),
        overall=_counts(values[COUNTS])[overall],
        items=np.concatenate([[EMPTY], counts]),
        user_ids=np.array([*users["user_id"].to_pylist(), None], object)[:-1],
        users=np.concatenate([[EMPTY], _counts(users[COUNTS])]),
        attributes={name: attribute(name) for name in attributes},
        dates=np.concatenate([np.zeros((1, dates.shape[1]), np.int64), np.where(known[:, None], dates[item_rows], 0)]),
    )


def _read(folder: str, split: str, lists: Sequence[str]) -> Columns:
    files = sorted(tf.io.gfile.glob(f"{folder}/Split-{split}/*"))
    decoder = ExamplesToRecordBatchDecoder()
    records = tf.data.TFRecordDataset(files, "GZIP").batch(DECODE_ROWS)
    batches = [decode(decoder, list(batch), tuple(lists)) for batch in records.as_numpy_iterator()]
    if not batches:
        empty = pa.array([], pa.binary())
        return {"user_id": empty, "item_id": empty, COUNTS: pa.array([], pa.list_(pa.int64()))}
    names = dict.fromkeys(name for batch in batches for name in batch)
    return concatenate([{name: _column(batch, name, lists) for name in names} for batch in batches])


def _column(batch: Columns, name: str, lists: Sequence[str]) -> pa.Array:
    """A list that no row of a batch has is decoded as nulls."""
    kind = pa.int64() if name.endswith((COUNTS, DATES)) else pa.binary()
    if name not in lists:
        return batch[name]
    rows = len(next(iter(batch.values())))
    values = batch[name] if name in batch else pa.nulls(rows)
    return values.cast(pa.list_(kind)).fill_null([])


def _counts(lists: pa.ListArray) -> np.ndarray:
    """int64 [n, 3]."""
    return lists_to_matrix(lists, len(FIELDS)).astype(np.int64)


def _codes(columns: Columns, name: str, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(Where the values of each row begin, int64 [n + 1]; their places in `values`, end to end)."""
    rows = len(columns[COUNTS])
    if f"{name}_values" not in columns:
        return np.zeros(rows + 1, np.int64), np.zeros(0, np.int64)
    lists = columns[f"{name}_values"]
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))])
    codes = pc.index_in(lists.flatten(), value_set=values).to_numpy(zero_copy_only=False)
    return offsets.astype(np.int64), codes.astype(np.int64)
