"""What the ranker knows of every item: its frozen content embedding, its categories, and its id's row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from mim_keras.config import require
from mim_keras.layers.base import Configurable, TracedSpec
from mim_keras.ops.distribution import is_multi_worker

INT8_SCALE = 127.0
SPLIT_ROWS = 65_536


@dataclass(frozen=True)
class ItemTableData:
    """The values of an `ItemTable`; row 0 is padding, row i + 1 is item i.

    Attributes:
        embeddings: [items + 1, d], L2-normalised: int8 × 127, float16 or float32.
        has_embedding: bool [items + 1].
        categories: 0/1 uint8 [items + 1, categories].
        id_index: int32 [items + 1]: row of the id embedding, 0 for an id that is not in the vocabulary.
        category_names: Of the columns of `categories`.
    """

    embeddings: np.ndarray
    has_embedding: np.ndarray
    categories: np.ndarray
    id_index: np.ndarray
    category_names: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Factor from stored values to embeddings."""
        return _scale(str(self.embeddings.dtype))

    def split_dims(self, dim: int) -> tuple[ItemTableData, ItemTableData]:
        """The table with the first `dim` dimensions of each embedding, and with the rest, each L2-normalised.

        int8 becomes float16, so that values are not rounded twice.

        Raises:
            ConfigError: one of the two would have no dimension.
        """
        width = self.embeddings.shape[1]
        fix = "Change ciubm.ensemble_split_dim; after a change of item_embedding_parts train once without a warm start."
        require(0 < dim < width, "ensemble_split_dim is inside the embedding", f"{dim} of {width}", fix)
        first, second = (self._replace_embeddings(self.embeddings[:, part]) for part in (slice(dim), slice(dim, None)))
        return first, second

    def _replace_embeddings(self, embeddings: np.ndarray) -> ItemTableData:
        dtype = np.float16 if embeddings.dtype == np.int8 else embeddings.dtype
        normalized = np.empty(embeddings.shape, dtype)
        for begin in range(0, len(embeddings), SPLIT_ROWS):
            rows = embeddings[begin : begin + SPLIT_ROWS].astype(np.float32)
            norm = np.linalg.norm(rows, axis=1, keepdims=True)
            normalized[begin : begin + SPLIT_ROWS] = rows / np.where(norm > 0, norm, 1.0)
        return replace(self, embeddings=normalized, has_embedding=self.has_embedding & np.any(embeddings != 0, axis=1))

    @staticmethod
    def from_items(
        embeddings: np.ndarray, has_embedding: np.ndarray, categories: Sequence[Sequence[str]], id_index: np.ndarray
    ) -> ItemTableData:
        """A table of n items, without its padding row.

        Args:
            embeddings: [n, d]; rows of items without an embedding are set to zero.
            has_embedding: bool [n].
            categories: Names of each item's categories.
            id_index: int [n].

        Raises:
            ValueError: the rows differ in number, an item's categories are a string, or an id index is negative.

        Example:
            >>> import numpy as np
            >>> from mim_keras.layers import ItemTableData
            >>> data = ItemTableData.from_items(np.eye(2, dtype="float32"), np.ones(2, bool), [["a"], []], np.arange(2))
            >>> data.embeddings.shape, data.category_names
            ((3, 2), ('a',))
        """
        sizes = {len(embeddings), len(has_embedding), len(categories), len(id_index)}
        if len(sizes) > 1 or any(isinstance(row, str) for row in categories) or np.min(id_index, initial=0) < 0:
            raise ValueError(
                "items have one row in each of embeddings, has_embedding, categories and id_index, lists of names as "
                f"categories, and id indices of 0 or more; received {len(embeddings)}, {len(has_embedding)}, "
                f"{len(categories)} and {len(id_index)} rows, categories such as {list(categories[:1])}, a least id "
                f"index of {np.min(id_index, initial=0)}. Give each item its row."
            )
        has_embedding = np.asarray(has_embedding, bool)
        embeddings = np.where(has_embedding[:, None], embeddings, np.zeros((), embeddings.dtype))
        names = sorted({name for row in categories for name in row})
        column_of = {name: column for column, name in enumerate(names)}
        multi_hot = np.zeros((len(embeddings) + 1, max(1, len(names))), np.uint8)
        for row, item_names in enumerate(categories, 1):
            multi_hot[row, [column_of[name] for name in item_names]] = 1
        return ItemTableData(
            embeddings=np.concatenate([np.zeros((1, embeddings.shape[1]), embeddings.dtype), embeddings]),
            has_embedding=np.concatenate([[False], has_embedding]),
            categories=multi_hot,
            id_index=np.concatenate([[0], id_index]).astype(np.int32),
            category_names=tuple(names),
        )


class ItemFeatures(NamedTuple):
    """Rows of an `ItemTable`: embedding [..., d], has_embedding bool [...], categories [..., C], id_index [...]."""

    embedding: Any
    has_embedding: Any
    categories: Any
    id_index: Any


@keras.saving.register_keras_serializable("mim")
class ItemTable(TracedSpec, Configurable, keras.layers.Layer):
    """Item rows → what is known of the items.  The table is frozen data, set by `set_data`.

    Its weights are saved with a model, so that a loaded model scores; checkpoints of a training skip them.

    Args:
        num_rows: Rows, padding included.
        embedding_dim: Width of the content embeddings.
        num_categories: Columns of the category matrix.
        num_ids: Rows of the id embedding that `id_index` points into.
        embedding_dtype: int8 (× 127), float16 or float32.

    Call arguments:
        rows: int [...].

    Returns:
        `ItemFeatures`; an item without an embedding has zeros.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import ItemTable, ItemTableData
        >>> data = ItemTableData.from_items(np.eye(2, dtype="float32"), np.ones(2, bool), [["a"], []], np.arange(2))
        >>> ItemTable.from_data(data)(np.array([0, 1])).embedding.numpy().tolist()
        [[0.0, 0.0], [1.0, 0.0]]
    """

    config_names = ("num_rows", "embedding_dim", "num_categories", "num_ids", "embedding_dtype")

    skipped_by_checkpoints = True  # and by warm starts; a `.keras` file holds the values

    def __init__(
        self,
        num_rows: int,
        embedding_dim: int,
        num_categories: int,
        num_ids: int,
        embedding_dtype: str = "int8",
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self.num_rows, self.embedding_dim, self.num_categories = num_rows, embedding_dim, num_categories
        self.num_ids, self.embedding_dtype = num_ids, embedding_dtype
        # TensorFlow sends no int8 between workers.
        stored = "float16" if is_multi_worker() and embedding_dtype == "int8" else embedding_dtype
        self.embeddings = self._add_frozen_weight("embeddings", (num_rows, embedding_dim), stored)
        self.has_embedding = self._add_frozen_weight("has_embedding", (num_rows,), "bool")
        self.category_matrix = self._add_frozen_weight("categories", (num_rows, num_categories), "bool")
        self.id_index = self._add_frozen_weight("id_index", (num_rows,), "int32")

    def _add_frozen_weight(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        options = {"initializer": "zeros", "trainable": False, "autocast": False}
        return self.add_weight(shape=shape, dtype=dtype, name=name, **options)

    @classmethod
    def from_data(cls, data: ItemTableData, **kwargs: Any) -> ItemTable:
        """A table with the sizes and the values of `data`."""
        rows, dim = data.embeddings.shape
        num_ids = int(data.id_index.max()) + 1
        table = cls(rows, dim, data.categories.shape[1], num_ids, str(data.embeddings.dtype), **kwargs)
        table.set_data(data)
        return table

    def set_data(self, data: ItemTableData) -> None:
        """Sets the values.

        Raises:
            ValueError: they have other sizes than the table.
        """
        sizes = (*data.embeddings.shape, data.categories.shape[1])
        expected = (self.num_rows, self.embedding_dim, self.num_categories)
        if sizes != expected:
            raise ValueError(
                f"the data of an ItemTable have its (rows, embedding_dim, categories), {expected}; received {sizes}. "
                "Make a table of these sizes: ItemTable.from_data."
            )
        self.embeddings.assign(data.embeddings)
        self.has_embedding.assign(data.has_embedding.astype(bool))
        self.category_matrix.assign(data.categories.astype(bool))
        self.id_index.assign(data.id_index)

    def all_embeddings(self) -> Any:
        """The embeddings of all rows, float [num_rows, embedding_dim]."""
        return self._dequantize(ops.convert_to_tensor(self.embeddings))

    def all_categories(self) -> Any:
        """The categories of all rows, float [num_rows, num_categories]."""
        return ops.cast(ops.convert_to_tensor(self.category_matrix), self.compute_dtype)

    def _dequantize(self, values: Any) -> Any:
        return ops.cast(values, self.compute_dtype) * _scale(self.embedding_dtype)

    def build(self, rows_shape: Any) -> None:
        """The constructor makes all weights."""

    def call(self, rows: Any) -> ItemFeatures:
        return ItemFeatures(
            embedding=self._dequantize(ops.take(self.embeddings, rows, axis=0)),
            has_embedding=ops.take(self.has_embedding, rows, axis=0),
            categories=ops.cast(ops.take(self.category_matrix, rows, axis=0), self.compute_dtype),
            id_index=ops.take(self.id_index, rows, axis=0),
        )

    def compute_output_shape(self, rows_shape: Any) -> ItemFeatures:
        shape = tuple(rows_shape)
        return ItemFeatures((*shape, self.embedding_dim), shape, (*shape, self.num_categories), shape)


def _scale(dtype: str) -> float:
    return 1 / INT8_SCALE if dtype == "int8" else 1.0


class ItemParts(TracedSpec, Configurable):
    """Mixin of the encoders of targets and of histories: layers over an item table, which they may share.

    Args:
        item_table: What is known of the items.
        category_embedding: Dense layer over the categories.
        id_embedding: Embedding of the ids; None for a ranker without ids.
        content_projection: Dense layer over the content embeddings; None for a ranker without content.
    """

    config_parts = ("item_table", "category_embedding", "id_embedding", "content_projection")

    def __init__(
        self,
        item_table: ItemTable,
        category_embedding: Any,
        id_embedding: Any = None,
        content_projection: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.item_table, self.category_embedding = item_table, category_embedding
        self.id_embedding, self.content_projection = id_embedding, content_projection

    def build_parts(self) -> None:
        """Builds the layers that are not built yet."""
        for layer, shape in (
            (self.category_embedding, (None, self.item_table.num_categories)),
            (self.id_embedding, (None,)),
            (self.content_projection, (None, self.item_table.embedding_dim)),
        ):
            if layer is not None and not layer.built:
                layer.build(shape)
