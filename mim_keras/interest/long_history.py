"""What of a long history is near enough to a target to be looked at."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class CosineSearch(keras.layers.Layer):
    """The `k` clicks of a history that are most like the target, in their order of time.

    Args:
        k: How many are kept.

    Call:
        similarity: Cosines of the target and each click, [B, L]; zero where a vector is missing.
        present: True at real positions, bool [H, L]; H is B, or 1 for one history shared by all targets.
        Returns positions, int32 [B, min(k, L)], ascending.  Where fewer clicks are present, absent positions make up
        the number; what is looked up at them stays absent.

    Nothing is learned: a learned search gained nothing over plain cosine.  Source: MUSE (2512.07216); the search of
    SIM (2006.05639).
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1; received {k}. 50 is usual.")
        self.k = k

    def call(self, similarity: Any, present: Any) -> Any:
        likeness = ops.where(present, similarity, ops.full_like(similarity, -2.0))
        _, places = ops.top_k(likeness, min(self.k, similarity.shape[1]))
        return ops.sort(ops.cast(places, "int32"), axis=-1)

    def compute_output_shape(self, similarity_shape: tuple, present_shape: tuple) -> tuple:
        return (similarity_shape[0], min(self.k, similarity_shape[1]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}


def looked_up(values: Any, places: Any) -> Any:
    """values [H, L] or [H, L, D] at places [B, k] → [B, k] or [B, k, D]; H is B or 1."""
    if values.shape[0] == 1:
        return ops.take(values[0], places, axis=0)
    if len(values.shape) == 2:
        return ops.take_along_axis(values, places, axis=1)
    rows = ops.arange(ops.shape(places)[0], dtype="int32")[:, None] * values.shape[1] + places
    return ops.take(ops.reshape(values, (-1, values.shape[-1])), rows, axis=0)
