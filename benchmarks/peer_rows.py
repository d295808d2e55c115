"""The rows of an ablation as `benchmarks/peers.py` gives them to a peer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.columns import Columns, concatenate
from components.examples import SPLITS, read_split
from tfx_pipeline.ablation.evaluate import COLUMNS, Rows
from tfx_pipeline.run_fns.catalogue import Catalogue
from tfx_pipeline.runners.lineage import newest, open_store


@dataclass(frozen=True)
class PeerRows(Rows):
    """n ranking examples; items are places in the catalogue, from 1; 0 is padding.

    Attributes:
        item: int32 [n].
        history: int32 [n, L], the clicks first and padding behind.
        user: Code of the user, int32 [n]; 0 for one seen too seldom in train.
    """

    item: np.ndarray
    history: np.ndarray
    user: np.ndarray


def read_rows(root: Path, min_count: int, history_length: int) -> tuple[Catalogue, dict[str, PeerRows], str]:
    """The catalogue and the splits of the newest ablation below `root`, and a name for these data.

    Args:
        root: Of `mim ablate`.
        min_count: Users seen less often in train share a code.
        history_length: L.

    Raises:
        FileNotFoundError: nothing was run there.
    """
    store = open_store(root)
    made = [newest(store, node, output) for node, output in (("CatalogueGen", "items"), ("HistoryGen", "examples"))]
    if None in made:
        raise FileNotFoundError(f"{root} holds no ranking examples; run `mim ablate` there first")
    items, examples = (artifact.uri for artifact in made if artifact is not None)
    catalogue = Catalogue.read(items)
    names = (*COLUMNS, "history_item_ids")
    parts = {s: concatenate(c for _, c in read_split(examples, s, ("history_item_ids",), names)) for s in SPLITS}
    counts = pc.value_counts(parts["train"]["user_id"].cast(pa.binary()))
    users = counts.field("values").filter(pc.greater_equal(counts.field("counts"), min_count))
    ids = pa.array(list(catalogue.item_id), pa.binary())
    splits = {split: _rows(columns, ids, users, history_length) for split, columns in parts.items()}
    return catalogue, splits, hashlib.sha256(f"{items} {examples}".encode()).hexdigest()[:12]


def _rows(columns: Columns, items: pa.Array, users: pa.Array, length: int) -> PeerRows:
    own, clicks = Rows.of(columns), columns["history_item_ids"]
    return PeerRows(
        person=own.person,
        label=own.label,
        slices=own.slices,
        item=index_of(columns["item_id"], items) + 1,
        history=laid_out(clicks, index_of(clicks.values, items) + 1, length),
        user=index_of(columns["user_id"], users) + 1,
    )


def index_of(values: pa.Array, among: pa.Array) -> np.ndarray:
    """Place of each value, int32 [n]; −1 for one that is not there."""
    found = pc.fill_null(pc.index_in(values.cast(pa.binary()), value_set=among.cast(pa.binary())), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int32)


def laid_out(lists: pa.ListArray, values: np.ndarray, width: int) -> np.ndarray:
    """Lists as a table, int32 [n, width], the latest values of each, zeros behind."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    sizes = np.minimum(np.diff(offsets), width)
    table = np.zeros((len(sizes), width), np.int32)
    inside = np.arange(width)[None, :] < sizes[:, None]
    source = (offsets[1:] - sizes)[:, None] + np.arange(width)[None, :]
    table[inside] = values[source[inside]]
    return table
