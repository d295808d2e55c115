"""The data that all variants share, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from components.columns import Columns, concatenate
from components.examples import DECODE_ROWS, SPLITS, read_split
from tfx_pipeline.ablation.views import by_age, by_popularity
from tfx_pipeline.run_fns.catalogue import Catalogue
from tfx_pipeline.runners.lineage import newest, open_store
from tfx_pipeline.settings import DataConfig

LISTS = ("history_item_ids", "history_ages")


@dataclass(frozen=True)
class Rows:
    """n ranking examples; items are places in the catalogue, from 1; 0 is padding.

    Attributes:
        item: int32 [n].
        history, ages: int32 [n, L], the clicks first and padding behind.
        user: Row of the user embedding, int32 [n].
        label: float32 [n].
        person: A code of the user, learned or not, int32 [n].
        slices: Name of each slice → bool [n].
    """

    item: np.ndarray
    history: np.ndarray
    ages: np.ndarray
    user: np.ndarray
    label: np.ndarray
    person: np.ndarray
    slices: dict[str, np.ndarray]

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What `CiUBM` takes of some rows."""
        return {
            "item_row": self.item[rows],
            "history_rows": self.history[rows],
            "history_ages": self.ages[rows],
            "user_index": self.user[rows],
        }

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """The same of all rows, in order, `size` at a time."""
        places = np.arange(len(self.item))
        return (self.inputs(places[begin : begin + size]) for begin in range(0, len(places), size))


@dataclass(frozen=True)
class Inputs:
    """What every variant is trained on and measured by.

    Attributes:
        catalogue: All items.
        splits: train, valid and test.
        id_index: Row of each item's id embedding, int32 [items]; 0 for one not learned.
        users: Rows of the user embedding.
        pairs: Patterns of PairGen's files, of train and of valid.
        views: Further cuts of test, by name: by popularity of the item and by its age (`views`).
    """

    catalogue: Catalogue
    splits: dict[str, Rows]
    id_index: np.ndarray
    users: int
    pairs: tuple[list[str], list[str]]
    views: dict[str, dict[str, np.ndarray]]

    @cached_property
    def fingerprint(self) -> str:
        """Of all that a variant learns from and is measured by."""
        found = hashlib.sha256()
        for rows in self.splits.values():
            for values in (
                rows.item,
                rows.history,
                rows.ages,
                rows.user,
                rows.label,
                rows.person,
                *rows.slices.values(),
            ):
                found.update(np.ascontiguousarray(values).tobytes())
        catalogue = self.catalogue
        for column in (catalogue.item_id, catalogue.image, catalogue.title, catalogue.text, catalogue.categories):
            for value in column:
                found.update(repr(value).encode())
        for file in sorted(
            file for patterns in self.pairs for pattern in patterns for file in tf.io.gfile.glob(pattern)
        ):
            for record in tf.data.TFRecordDataset(file, "GZIP").batch(DECODE_ROWS).as_numpy_iterator():
                found.update(b"".join(record))
        return found.hexdigest()


def read_inputs(root: Path, data: DataConfig, history_length: int) -> Inputs:
    """Reads what the data components of a run below `root` made.

    Which users and items are learned is decided as tf.Transform does it: those seen `data.min_count` times in the
    training part.

    Raises:
        FileNotFoundError: they did not run there.
    """
    store = open_store(str(root / "metadata.sqlite"))
    folders = {}
    for node, output in (("CatalogueGen", "items"), ("HistoryGen", "examples"), ("PairGen", "pairs")):
        artifact = newest(store, node, output)
        if artifact is None:
            raise FileNotFoundError(f"{root} holds nothing that {node} made; the data components must run there first")
        folders[node] = artifact.uri
    catalogue = Catalogue.read(folders["CatalogueGen"])
    columns = {split: _read(folders["HistoryGen"], split) for split in SPLITS}
    items = pa.array(list(catalogue.item_id), pa.binary())
    train = columns["train"]
    learned = _index_of(items, _learned(train["item_id"], data.min_count("item_id"))) + 1
    people = pc.unique(pa.concat_arrays([columns[split]["user_id"].cast(pa.binary()) for split in SPLITS]))
    known_users = _learned(train["user_id"], data.min_count("user_id"))

    def rows(part: Columns) -> Rows:
        history = part["history_item_ids"]
        segment = part["segment"].to_pylist()
        slices = {name: np.array([value == name.encode() for value in segment]) for name in ("cold", "tail", "rest")}
        if "launched" in part:
            new = pc.equal(part["launched"].cast(pa.binary()), b"new").to_numpy(zero_copy_only=False)
            slices |= {"new": new, "known": ~new}
        return Rows(
            item=_index_of(part["item_id"], items) + 1,
            history=_laid_out(history, _index_of(history.values, items) + 1, history_length),
            ages=_laid_out(
                part["history_ages"], part["history_ages"].values.to_numpy(zero_copy_only=False), history_length
            ),
            user=_index_of(part["user_id"], known_users) + 1,
            label=part["clicked"].to_numpy(zero_copy_only=False).astype(np.float32),
            person=_index_of(part["user_id"], people),
            slices=slices,
        )

    splits = {split: rows(columns[split]) for split in SPLITS}
    moments = {split: columns[split]["timestamp"].to_numpy(zero_copy_only=False) for split in SPLITS}
    first = np.full(len(items) + 1, np.iinfo(np.int64).max)
    for split in SPLITS:
        np.minimum.at(first, splits[split].item, moments[split])
    clicks = np.bincount(splits["train"].item, splits["train"].label, len(items) + 1)
    test = splits["test"].item
    return Inputs(
        catalogue=catalogue,
        splits=splits,
        views={"popularity": by_popularity(test, clicks), "age": by_age(test, moments["test"], first)},
        id_index=learned,
        users=len(known_users) + 1,
        pairs=([f"{folders['PairGen']}/Split-train/*"], [f"{folders['PairGen']}/Split-valid/*"]),
    )


def _read(folder: str, split: str) -> Columns:
    only = ("user_id", "item_id", "timestamp", "clicked", "segment", "launched", *LISTS)
    return concatenate(columns for _, columns in read_split(folder, split, LISTS, only))


def _learned(values: pa.Array, min_count: int) -> pa.Array:
    counts = pc.value_counts(values.cast(pa.binary()))
    return counts.field("values").filter(pc.greater_equal(counts.field("counts"), min_count))


def _index_of(values: pa.Array, among: pa.Array) -> np.ndarray:
    """Place of each value, int32 [n]; −1 for one that is not there."""
    found = pc.fill_null(pc.index_in(values.cast(pa.binary()), value_set=among.cast(pa.binary())), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int32)


def _laid_out(lists: pa.ListArray, values: np.ndarray, width: int) -> np.ndarray:
    """Lists as a table, int32 [n, width], the latest values of each, zeros behind."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    sizes = np.minimum(np.diff(offsets), width)
    table = np.zeros((len(sizes), width), np.int32)
    inside = np.arange(width)[None, :] < sizes[:, None]
    source = (offsets[1:] - sizes)[:, None] + np.arange(width)[None, :]
    table[inside] = values[source[inside]]
    return table
