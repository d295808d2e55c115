"""A ranker of a dozen items, and input for it."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import preset
from mim_keras.item_table import ItemColumns

ITEMS, D, L = 12, 16, 8


def some_columns() -> ItemColumns:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(ITEMS, D))
    vectors = np.rint(127 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.int8)
    has_vector = np.arange(ITEMS) != 3
    id_index = np.where(np.arange(ITEMS) < 8, np.arange(1, ITEMS + 1), 0)
    return ItemColumns.assemble(vectors * has_vector[:, None], has_vector, [["a"], ["b"], []] * 4, id_index)


def ranker(columns: ItemColumns, context: tuple[int, ...] = (), **changes: object) -> CiUBM:
    keras.utils.set_random_seed(2)
    return CiUBM(replace(preset("tiny").ciubm, **changes), RankerShape(users=5, context=context), columns)


def inputs(rows: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    history = rng.integers(0, ITEMS + 1, (rows, L))
    history[0] = 0
    return {
        "item_row": rng.integers(1, ITEMS + 1, rows),
        "history_rows": history,
        "history_ages": rng.integers(0, 10**6, (rows, L)),
        "user_index": rng.integers(0, 5, rows),
    }
