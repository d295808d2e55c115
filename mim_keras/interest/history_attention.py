"""What all attention of targets over histories has in common."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.interest.masked import products, sums


class HistoryAttention(keras.layers.Layer):
    """Attention of a target over a history in three steps, so that several kinds can share the passes over the clicks.

    `ask` turns a target into queries [B, heads, D] that are held against the clicks as they are: q · (W_k e) =
    (q W_kᵀ) · e, one product for each target instead of one for each click.  `weigh` makes weights [B, heads, L] of
    these products.  `tell` makes the answer [B, d] of the weighted sums of clicks [B, heads, D]: Σ w (W_v e) =
    W_v Σ w e.

    Args:
        dim: Width d of the answer.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.query, self.key, self.value = (keras.layers.Dense(dim, use_bias=False) for _ in range(3))

    def _held_against_clicks(self, query: Any) -> Any:
        """(q W_kᵀ) of q [B, d] → [B, D], for clicks as they are."""
        return ops.matmul(query, ops.transpose(ops.cast(self.key.kernel, query.dtype)))

    def ask(self, target: Any) -> Any:
        raise NotImplementedError

    def weigh(self, dots: Any, similarity: Any, present: Any) -> Any:
        raise NotImplementedError

    def tell(self, gathered: Any) -> Any:
        raise NotImplementedError

    def attend(self, target: Any, clicks: Any, similarity: Any, present: Any) -> Any:
        """The three steps, for this kind alone."""
        return attend([(self, self.ask(target), similarity, present)], clicks)[0]

    def compute_output_shape(self, target_shape: tuple, *further_shapes: tuple) -> tuple:
        return (target_shape[0], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim}


def attend(kinds: list[tuple[HistoryAttention, Any, Any, Any]], clicks: Any, recency: Any | None = None) -> list[Any]:
    """Answers of several kinds of attention over the same clicks, in two passes over them in all.

    Args:
        kinds: Of each the layer, its queries [B, heads, D'], the cosines [B, L] or None, and the positions that
            count, bool [B or H, L].  D' may be less than D: then it is the last D' features of a click that count.
        clicks: [H, L, D]; H is B, or 1 for one history shared by all targets.
        recency: Added to the products of each head, for how long ago a click was, [H, L, all heads].

    Returns:
        Of each, [B, d].
    """
    heads = [queries.shape[1] for _, queries, _, _ in kinds]
    wide = [ops.pad(queries, [[0, 0], [0, 0], [clicks.shape[-1] - queries.shape[-1], 0]]) for _, queries, _, _ in kinds]
    dots = products(ops.concatenate(wide, axis=1), clicks)
    if recency is not None:
        dots = dots + ops.transpose(recency, (0, 2, 1))
    weights, first = [], 0
    for (layer, _, similarity, present), own in zip(kinds, heads, strict=True):
        weights.append(layer.weigh(dots[:, first : first + own], similarity, present))
        first += own
    gathered = sums(ops.concatenate(weights, axis=1), clicks)
    answers, first = [], 0
    for (layer, queries, _, _), own in zip(kinds, heads, strict=True):
        answers.append(layer.tell(gathered[:, first : first + own, -queries.shape[-1] :]))
        first += own
    return answers
