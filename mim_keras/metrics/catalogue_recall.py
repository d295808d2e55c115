"""Recall@K over a whole catalogue."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


def catalogue_hits(query: np.ndarray, items: np.ndarray, positive: np.ndarray, k: int) -> np.ndarray:
    """Whether each query's item is among the `k` most similar of all items, bool [Q].

    Args:
        query: [Q, d].
        items: [N, d].
        positive: Index of each query's item, int [Q].
        k: Items that count.  Items that tie with the positive are ranked before it.
    """
    hits = np.zeros(len(query), bool)
    for begin in range(0, len(query), 1024):
        similarity = query[begin : begin + 1024] @ items.T
        of_positive = np.take_along_axis(similarity, positive[begin : begin + 1024, None], axis=1)
        hits[begin : begin + 1024] = (~(similarity < of_positive)).sum(axis=1) <= k  # NaN ranks last
    return hits


def catalogue_recall(query: np.ndarray, items: np.ndarray, positive: np.ndarray, k: int) -> float:
    """Share of queries that hit; arguments as of `catalogue_hits`."""
    return float(catalogue_hits(query, items, positive, k).sum()) / max(len(query), 1)


@keras.saving.register_keras_serializable("mim")
class CatalogueRecallAtK(keras.metrics.Metric):
    """Share of queries whose item is among the K most similar of all items; ties count against it.

    `keras_rs.metrics.RecallAtK` ranks the candidates of one list; this one ranks the whole catalogue.

    Args:
        k: Items that count.

    Example:
        >>> from mim_keras.metrics import CatalogueRecallAtK
        >>> metric = CatalogueRecallAtK(1)
        >>> metric.update_state(positive=[2], query=[[1.0, 0.0]], items=[[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
        >>> float(metric.result())
        1.0
    """

    def __init__(self, k: int = 10, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or f"recall_at_{k}", **kwargs)
        self.k = k
        self.hits = self.add_weight(shape=(), initializer="zeros", name="hits")
        self.queries = self.add_weight(shape=(), initializer="zeros", name="queries")

    def update_state(self, positive: Any, query: Any, items: Any) -> None:
        """Adds queries.

        Args:
            positive: Index of each query's item, int [B].
            query: [B, d].
            items: All of them, [N, d].
        """
        query, items = ops.convert_to_tensor(query), ops.convert_to_tensor(items)
        similarity = ops.matmul(query, ops.transpose(items))  # (B, N)
        of_positive = ops.take_along_axis(similarity, ops.cast(positive, "int32")[:, None], axis=1)
        # NaN is not below anything, so that it ranks last
        rank = ops.sum(ops.cast(ops.logical_not(similarity < of_positive), "int32"), axis=1)
        self.hits.assign_add(ops.sum(ops.cast(rank <= self.k, self.hits.dtype)))
        self.queries.assign_add(ops.cast(ops.shape(query)[0], self.queries.dtype))

    def result(self) -> Any:
        return self.hits / ops.maximum(self.queries, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
