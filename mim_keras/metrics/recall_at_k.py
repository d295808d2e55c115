"""Recall@K over a whole catalogue, as a Keras metric."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class RecallAtK(keras.metrics.Metric):
    """Share of queries whose item is among the K most similar of all items; items that tie with it count against it.

    Args:
        k: How many are looked at.

    Example:
        >>> metric = RecallAtK(1)
        >>> metric.update_state(item=[2], query=[[1.0, 0.0]], items=[[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
        >>> float(metric.result())
        1.0
    """

    def __init__(self, k: int = 10, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or f"recall_at_{k}", **kwargs)
        self.k = k
        self.hits = self.add_weight(shape=(), initializer="zeros", name="hits")
        self.queries = self.add_weight(shape=(), initializer="zeros", name="queries")

    def update_state(self, item: Any, query: Any, items: Any) -> None:
        """Adds queries.

        Args:
            item: Row of each query's item, int [B].
            query: [B, d].
            items: All of them, [N, d].
        """
        query, items = ops.convert_to_tensor(query), ops.convert_to_tensor(items)
        similarity = ops.matmul(query, ops.transpose(items))  # (B, N)
        own = ops.take_along_axis(similarity, ops.cast(item, "int32")[:, None], axis=1)
        rank = ops.sum(ops.cast(similarity >= own, "int32"), axis=1)
        self.hits.assign_add(ops.sum(ops.cast(rank <= self.k, self.hits.dtype)))
        self.queries.assign_add(ops.cast(ops.shape(query)[0], self.queries.dtype))

    def result(self) -> Any:
        return self.hits / ops.maximum(self.queries, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
