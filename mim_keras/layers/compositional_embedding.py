"""Embeddings of many ids from two small tables."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from mim_keras.layers.base import Configurable

Method = Literal["quotient_remainder", "two_hash"]
# Odd factors of the hashes; a product in int32 keeps its lowest 32 bits.
_HASH_FACTORS = (-1640531535, -2048144777)


@keras.saving.register_keras_serializable("mim")
class CompositionalEmbedding(Configurable, keras.layers.Layer):
    """Embedding of an id as the sum of a row of one table and a row of another.

    Memory is that of the two tables; ids that share a row in one of them differ in the other.

    Args:
        num_ids: Number of ids; ids are below it.
        output_dim: Width.
        rows: Rows of a table.
        method: `quotient_remainder` looks up id mod rows, and id // rows in a table of as many rows as that needs: no
            two ids have the same two rows.  `two_hash` looks up two hashes of the id, each in a table of `rows` rows:
            of n ids about n² / (2 rows²) pairs have the same two.
        embeddings_initializer: Of the rows.
        embeddings_regularizer: Of each table.

    Raises:
        ValueError: a size is below 1, or there is no such method.

    Call arguments:
        ids: int [...].

    Returns:
        float [..., output_dim].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import CompositionalEmbedding
        >>> embedding = CompositionalEmbedding(1_000_000, 16, rows=1_000)
        >>> embedding(np.array([[7, 999_999]])).shape, sum(table.shape[0] for table in embedding.tables)
        (TensorShape([1, 2, 16]), 2000)

    Source: Compositional Embeddings Using Complementary Partitions (1909.02107); hash embeddings (1709.03933) without
    their weights.
    """

    config_names = ("num_ids", "output_dim", "rows", "method")
    config_parts = ("embeddings_initializer", "embeddings_regularizer")

    def __init__(
        self,
        num_ids: int,
        output_dim: int,
        rows: int,
        method: Method = "quotient_remainder",
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(num_ids, output_dim, rows) < 1 or method not in get_args(Method):
            raise ValueError(
                f"a CompositionalEmbedding has sizes of 1 or more and a method of {', '.join(get_args(Method))}; "
                f"received num_ids={num_ids}, output_dim={output_dim}, rows={rows}, method={method!r}. Change them."
            )
        self.num_ids, self.output_dim, self.rows, self.method = num_ids, output_dim, rows, method
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.autocast = False

    def build(self, ids_shape: Any = None) -> None:
        second = self.rows if self.method == "two_hash" else -(-self.num_ids // self.rows)
        self.tables = [
            self.add_weight(
                shape=(rows, self.output_dim),
                initializer=self.embeddings_initializer.clone(),
                regularizer=self.embeddings_regularizer,
                name=f"embeddings_{place}",
            )
            for place, rows in enumerate((self.rows, second))
        ]

    def call(self, ids: Any) -> Any:
        ids = ops.cast(ids, "int32")
        if self.method == "two_hash":
            places = [_hash(ids, factor) % self.rows for factor in _HASH_FACTORS]
        else:
            places = [ids % self.rows, ids // self.rows]
        first, second = (ops.take(table, rows, axis=0) for table, rows in zip(self.tables, places, strict=True))
        return ops.cast(first + second, self.compute_dtype)

    def compute_output_shape(self, ids_shape: Any) -> tuple:
        return (*ids_shape, self.output_dim)


def _hash(ids: Any, factor: int) -> Any:
    """A number of 30 bits for each id, int32; distinct ids rarely share one."""
    mixed = ids * factor
    mixed = ops.bitwise_xor(mixed, ops.bitwise_and(ops.right_shift(mixed, 15), (1 << 17) - 1)) * factor
    return ops.bitwise_and(ops.right_shift(mixed, 1), (1 << 30) - 1)
