"""Rows that are learned, and whose gradients are added up in float32 whatever the model computes in."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.interest.masked import in_one_piece


@keras.saving.register_keras_serializable("mim")
class EmbeddingTable(keras.layers.Layer):
    """Row numbers int [...] → their rows [..., width] in the type that the model computes in.

    A row may be asked for many thousand times in a batch.  A sum of so many gradients in bfloat16 stands still after a
    few hundred, and on an accelerator, which adds no halves at once, each waits for the one before.  Keras' own
    Embedding adds in float32 too, but not under JAX's training step where nothing but the model is around it.

    Args:
        rows: How many there are.
        width: Numbers in a row.
        initializer: Of all rows.
    """

    def __init__(self, rows: int, width: int, initializer: Any = "uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.width, self.initializer = rows, width, keras.initializers.get(initializer)

    def build(self, numbers_shape: Any = None) -> None:
        self.embeddings = self.add_weight(
            shape=(self.rows, self.width), initializer=self.initializer, autocast=False, name="embeddings"
        )

    def call(self, numbers: Any) -> Any:
        return ops.cast(ops.take(self.embeddings, numbers, axis=0), self.compute_dtype)

    def compute_output_shape(self, numbers_shape: tuple) -> tuple:
        return (*numbers_shape, self.width)

    def get_config(self) -> dict[str, Any]:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "rows": self.rows, "width": self.width, "initializer": initializer}


def rows_of(values: Any, numbers: Any) -> Any:
    """values [N, D], all of them finite, at numbers [...] → [..., D]; gradients of a row are added up in float32."""
    # in one piece: TensorFlow would leave the gradients apart until they are halves
    wide = in_one_piece(ops.cast(values, "float32"))
    return ops.cast(ops.take(wide, numbers, axis=0), values.dtype)
