"""What the ranker knows of every item: its frozen vector, its categories, and whether its id was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import require
from mim_keras.training.replicas import several_workers

INT8_SCALE = 127.0
SPLIT_ROWS = 65_536
PADDING_ROW = 0  # stands for no item at all, and for an item the table lacks


@dataclass(frozen=True)
class ItemColumns:
    """The table's columns; row 0 is padding, row i + 1 is item i.

    Attributes:
        vectors: [items + 1, d], vectors of length one: int8 × 127, or float16 or float32 as they are.
        has_vector: bool [items + 1].
        categories: 0/1 uint8 [items + 1, categories].
        id_index: int32 [items + 1]; row of the id embedding, 0 for an id that was not learned.
        category_names: Of the columns of `categories`.
    """

    vectors: np.ndarray
    has_vector: np.ndarray
    categories: np.ndarray
    id_index: np.ndarray
    category_names: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """What a number of `vectors` is multiplied by."""
        return 1 / INT8_SCALE if self.vectors.dtype == np.int8 else 1.0

    def split(self, at: int) -> tuple[ItemColumns, ItemColumns]:
        """The columns with the first `at` numbers of each vector, and with those behind them, at length one again; what
        was int8 becomes float16, so that it is not rounded twice.

        Raises:
            ConfigError: nothing would be left for one of them.
        """
        width = self.vectors.shape[1]
        fix = "Change ciubm.ensemble_at; after a change of encoder.vector train once without a warm start."
        require(0 < at < width, "a vector is split inside it", f"at {at} of {width}", fix)
        first, second = (self._with(self.vectors[:, part]) for part in (slice(at), slice(at, None)))
        return first, second

    def _with(self, vectors: np.ndarray) -> ItemColumns:
        unit = np.empty(vectors.shape, np.float16 if vectors.dtype == np.int8 else vectors.dtype)
        for begin in range(0, len(vectors), SPLIT_ROWS):
            part = vectors[begin : begin + SPLIT_ROWS].astype(np.float32)
            length = np.linalg.norm(part, axis=1, keepdims=True)
            unit[begin : begin + SPLIT_ROWS] = part / np.where(length > 0, length, 1.0)
        return replace(self, vectors=unit, has_vector=self.has_vector & np.any(vectors != 0, axis=1))

    @staticmethod
    def assemble(
        vectors: np.ndarray, has_vector: np.ndarray, categories: Sequence[Sequence[str]], id_index: np.ndarray
    ) -> ItemColumns:
        """Columns of `items` items from vectors [items, d], masks, lists of category names and id rows.

        Of an item that has none, whatever stands in the place of its vector is put to zero.
        """
        vectors = np.where(np.asarray(has_vector, bool)[:, None], vectors, np.zeros((), vectors.dtype))
        names = sorted({name for row in categories for name in row})
        place = {name: i for i, name in enumerate(names)}
        multi_hot = np.zeros((len(vectors) + 1, max(1, len(names))), np.uint8)
        for row, own in enumerate(categories, 1):
            multi_hot[row, [place[name] for name in own]] = 1
        return ItemColumns(
            vectors=np.concatenate([np.zeros((1, vectors.shape[1]), vectors.dtype), vectors]),
            has_vector=np.concatenate([[False], has_vector.astype(bool)]),
            categories=multi_hot,
            id_index=np.concatenate([[0], id_index]).astype(np.int32),
            category_names=tuple(names),
        )


class ItemTable(keras.layers.Layer):
    """`ItemColumns` as frozen variables: rows of any shape → vector, mask, categories, id row.

    Call takes rows, int [...], and returns a mapping: `vector` float [..., d] (zeros where missing),
    `has_vector` bool [...], `categories` float [..., C], `id_index` int32 [...].
    """

    def __init__(self, columns: ItemColumns, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.dim, self.categories_dim = columns.vectors.shape[1], columns.categories.shape[1]
        self.ids = int(columns.id_index.max()) + 1
        self.scale = columns.scale

        def frozen(name: str, values: np.ndarray) -> Any:
            if several_workers() and values.dtype == np.int8:
                values = values.astype(np.float16)  # whole numbers as they are: TensorFlow sends no int8 to workers
            weight = self.add_weight(
                shape=values.shape,
                dtype=str(values.dtype),
                initializer="zeros",
                trainable=False,
                autocast=False,
                name=name,
            )
            weight.assign(values)
            return weight

        self.vectors = frozen("vectors", columns.vectors)
        self.has_vector = frozen("has_vector", columns.has_vector.astype(bool))
        self.category_table = frozen("categories", columns.categories.astype(bool))
        self.id_index = frozen("id_index", columns.id_index)

    @property
    def rows(self) -> int:
        """Rows of the table, padding included."""
        return int(self.vectors.shape[0])

    def of(self, column: str, rows: Any | None = None) -> Any:
        """`vectors` or `categories` as floats, of some rows or of all, [..., width]."""
        table, scale = {"vectors": (self.vectors, self.scale), "categories": (self.category_table, 1.0)}[column]
        values = ops.convert_to_tensor(table) if rows is None else ops.take(table, rows, axis=0)
        return ops.cast(values, self.compute_dtype) * scale

    def call(self, rows: Any) -> dict[str, Any]:
        return {
            "vector": self.of("vectors", rows),
            "has_vector": ops.take(self.has_vector, rows, axis=0),
            "categories": self.of("categories", rows),
            "id_index": ops.take(self.id_index, rows, axis=0),
        }
