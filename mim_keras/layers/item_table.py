"""What the ranker knows of every item: its frozen content embedding, its attributes, and its id's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
MAX_VALUES = 16  # values of one attribute that an item keeps
NO_ATTRIBUTES: Mapping[str, Sequence[Sequence[str]]] = {}


@dataclass(frozen=True)
class ItemTableData:
    """The values of an `ItemTable`; row 0 is padding, row i + 1 is item i.

    Attributes:
        embeddings: [items + 1, d], L2-normalised: int8 × 127, float16 or float32.
        has_embedding: bool [items + 1].
        attributes: int32 [items + 1, slots]: values of the attributes as rows of `values`; 0 where there is none.
        id_index: int32 [items + 1]: row of the id embedding, 0 for an id that is not in the vocabulary.
        slots: How many columns of `attributes` each attribute has, in order.
        values: The value of each code; the first, "", is no value.
    """

    embeddings: np.ndarray
    has_embedding: np.ndarray
    attributes: np.ndarray
    id_index: np.ndarray
    slots: tuple[int, ...] = (1,)
    values: tuple[str, ...] = ("",)

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

    def codes_of(self, first_slot: int, slots: int) -> list[int]:
        """The codes of the attribute in these columns, ascending."""
        found = np.unique(self.attributes[:, first_slot : first_slot + slots])
        return [int(code) for code in found[found > 0]]

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
        embeddings: np.ndarray,
        has_embedding: np.ndarray,
        categories: Sequence[Sequence[str]],
        id_index: np.ndarray,
        attributes: Mapping[str, Sequence[Sequence[str]]] = NO_ATTRIBUTES,
    ) -> ItemTableData:
        """A table of n items, without its padding row.

        Args:
            embeddings: [n, d]; rows of items without an embedding are set to zero.
            has_embedding: bool [n].
            categories: Names of each item's categories; the first attribute.
            id_index: int [n].
            attributes: Values of each item's further attributes, by name; the first 16 of each are kept.

        Raises:
            ValueError: the rows differ in number, an item's values are a string, or an id index is negative.

        Example:
            >>> import numpy as np
            >>> from mim_keras.layers import ItemTableData
            >>> data = ItemTableData.from_items(np.eye(2, dtype="float32"), np.ones(2, bool), [["a"], []], np.arange(2))
            >>> data.embeddings.shape, data.values
            ((3, 2), ('', 'a'))
        """
        columns = [categories, *attributes.values()]
        sizes = {len(embeddings), len(has_embedding), len(id_index), *map(len, columns)}
        strings = any(isinstance(row, str) for column in columns for row in column)
        if len(sizes) > 1 or strings or np.min(id_index, initial=0) < 0:
            raise ValueError(
                "items have one row in each of embeddings, has_embedding, categories, id_index and attributes, lists "
                f"of names as categories and attributes, and id indices of 0 or more; received {len(embeddings)}, "
                f"{len(has_embedding)}, {len(categories)}, {len(id_index)} and {[len(one) for one in columns[1:]]} "
                f"rows, categories such as {list(categories[:1])}, a least id index of {np.min(id_index, initial=0)}. "
                "Give each item its row."
            )
        has_embedding = np.asarray(has_embedding, bool)
        embeddings = np.where(has_embedding[:, None], embeddings, np.zeros((), embeddings.dtype))
        codes, values = [], [""]
        for name, column in zip(("", *attributes), columns, strict=True):
            of_items, found = _codes(column, len(values))
            codes.append(of_items)
            values += [f"{name}: {value}" if name else value for value in found]
        return ItemTableData(
            embeddings=np.concatenate([np.zeros((1, embeddings.shape[1]), embeddings.dtype), embeddings]),
            has_embedding=np.concatenate([[False], has_embedding]),
            attributes=np.concatenate(codes, axis=1),
            id_index=np.concatenate([[0], id_index]).astype(np.int32),
            slots=tuple(one.shape[1] for one in codes),
            values=tuple(values),
        )


def _codes(column: Sequence[Sequence[str]], first: int) -> tuple[np.ndarray, list[str]]:
    """Codes of one attribute's values, from `first` on, int32 [items + 1, slots], and the values in this order."""
    kept = [list(dict.fromkeys(row))[:MAX_VALUES] for row in column]
    found = sorted({value for row in kept for value in row})
    code_of = {value: code for code, value in enumerate(found, first)}
    codes = np.zeros((len(kept) + 1, max(1, *map(len, kept), 1)), np.int32)
    for row, values in enumerate(kept, 1):
        codes[row, : len(values)] = [code_of[value] for value in values]
    return codes, found


class ItemFeatures(NamedTuple):
    """Rows of an `ItemTable`: embedding [..., d], has_embedding bool [...], attributes [..., K], id_index [...]."""

    embedding: Any
    has_embedding: Any
    attributes: Any
    id_index: Any


@keras.saving.register_keras_serializable("mim")
class ItemTable(TracedSpec, Configurable, keras.layers.Layer):
    """Item rows → what is known of the items.  The table is frozen data, set by `set_data`.

    Its weights are saved with a model, so that a loaded model scores; checkpoints of a training skip them.

    Args:
        num_rows: Rows, padding included.
        embedding_dim: Width of the content embeddings.
        num_values: Values of all attributes, the one for none included.
        num_ids: Rows of the id embedding that `id_index` points into.
        slots: Columns of the attribute codes that each attribute has.
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

    config_names = ("num_rows", "embedding_dim", "num_values", "num_ids", "slots", "embedding_dtype")

    skipped_by_checkpoints = True  # and by warm starts; a `.keras` file holds the values

    def __init__(
        self,
        num_rows: int,
        embedding_dim: int,
        num_values: int,
        num_ids: int,
        slots: Sequence[int] = (1,),
        embedding_dtype: str = "int8",
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self.num_rows, self.embedding_dim, self.num_values = num_rows, embedding_dim, num_values
        self.num_ids, self.slots, self.embedding_dtype = num_ids, tuple(slots), embedding_dtype
        # TensorFlow sends no int8 between workers.
        stored = "float16" if is_multi_worker() and embedding_dtype == "int8" else embedding_dtype
        self.embeddings = self._add_frozen_weight("embeddings", (num_rows, embedding_dim), stored)
        self.has_embedding = self._add_frozen_weight("has_embedding", (num_rows,), "bool")
        self.attributes = self._add_frozen_weight("attributes", (num_rows, sum(self.slots)), "int32")
        self.id_index = self._add_frozen_weight("id_index", (num_rows,), "int32")

    def _add_frozen_weight(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        options = {"initializer": "zeros", "trainable": False, "autocast": False}
        return self.add_weight(shape=shape, dtype=dtype, name=name, **options)

    @classmethod
    def from_data(cls, data: ItemTableData, **kwargs: Any) -> ItemTable:
        """A table with the sizes and the values of `data`."""
        rows, dim = data.embeddings.shape
        num_ids = int(data.id_index.max()) + 1
        table = cls(rows, dim, len(data.values), num_ids, data.slots, str(data.embeddings.dtype), **kwargs)
        table.set_data(data)
        return table

    def set_data(self, data: ItemTableData) -> None:
        """Sets the values.

        Raises:
            ValueError: they have other sizes or another dtype than the table.
        """
        sizes = (*data.embeddings.shape, len(data.values), data.slots, str(data.embeddings.dtype))
        expected = (self.num_rows, self.embedding_dim, self.num_values, self.slots, self.embedding_dtype)
        if sizes != expected:
            raise ValueError(
                f"the data of an ItemTable have its (rows, embedding_dim, values, slots, dtype), {expected}; received "
                f"{sizes}. Make a table of these data: ItemTable.from_data."
            )
        if data.id_index.max(initial=0) >= self.num_ids:
            raise ValueError(
                f"id_index must be below num_ids={self.num_ids}; received {data.id_index.max()}. Make a table of these "
                "data: ItemTable.from_data."
            )
        self.embeddings.assign(data.embeddings)
        self.has_embedding.assign(data.has_embedding.astype(bool))
        self.attributes.assign(data.attributes)
        self.id_index.assign(data.id_index)

    def all_embeddings(self) -> Any:
        """The embeddings of all rows, float [num_rows, embedding_dim]."""
        return self._dequantize(ops.convert_to_tensor(self.embeddings))

    def _dequantize(self, values: Any) -> Any:
        return ops.cast(values, self.compute_dtype) * _scale(self.embedding_dtype)

    def build(self, rows_shape: Any) -> None:
        """The constructor makes all weights."""

    def call(self, rows: Any) -> ItemFeatures:
        return ItemFeatures(
            embedding=self._dequantize(ops.take(self.embeddings, rows, axis=0)),
            has_embedding=ops.take(self.has_embedding, rows, axis=0),
            attributes=ops.take(self.attributes, rows, axis=0),
            id_index=ops.take(self.id_index, rows, axis=0),
        )

    def compute_output_shape(self, rows_shape: Any) -> ItemFeatures:
        shape = tuple(rows_shape)
        return ItemFeatures((*shape, self.embedding_dim), shape, (*shape, sum(self.slots)), shape)


def _scale(dtype: str) -> float:
    return 1 / INT8_SCALE if dtype == "int8" else 1.0


class ItemParts(TracedSpec, Configurable):
    """Mixin of the encoders of targets and of histories: layers over an item table, which they may share.

    Args:
        item_table: What is known of the items.
        attribute_embedding: `AttributeEmbedding` of the attributes.
        id_embedding: Embedding of the ids; None for a ranker without ids.
        content_projection: Dense layer over the content embeddings; None for a ranker without content.
    """

    config_parts = ("item_table", "attribute_embedding", "id_embedding", "content_projection")

    def __init__(
        self,
        item_table: ItemTable,
        attribute_embedding: Any,
        id_embedding: Any = None,
        content_projection: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.item_table, self.attribute_embedding = item_table, attribute_embedding
        self.id_embedding, self.content_projection = id_embedding, content_projection

    def build_parts(self) -> None:
        """Builds the layers that are not built yet."""
        for layer, shape in (
            (self.attribute_embedding, (None, sum(self.item_table.slots))),
            (self.id_embedding, (None,)),
            (self.content_projection, (None, self.item_table.embedding_dim)),
        ):
            if layer is not None and not layer.built:
                layer.build(shape)
