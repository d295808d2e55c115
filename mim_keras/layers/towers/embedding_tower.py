"""A ready-made embedding as a tower."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.config import EmbeddingTowerConfig
from mim_keras.layers.base import Configurable, check_rank
from mim_keras.ops.normalization import l2_normalize


@keras.saving.register_keras_serializable("mim")
class EmbeddingTower(Configurable, keras.layers.Layer):
    """An embedding that was computed elsewhere → features: itself, L2-normalised.

    Args:
        dim: Its width.
        column: Name of the column that holds it; the encoder's input is `embedding_COLUMN`.
        modality: The view that it is a part of: image or text.

    Call arguments:
        embedding: float [B, dim]; zeros where an item has none.

    Returns:
        float [B, dim].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import EmbeddingTower
        >>> EmbeddingTower(2, column="clip")(np.array([[3.0, 4.0]], "float32")).numpy().round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    config_names = ("dim", "column", "modality")

    def __init__(self, dim: int, column: str, modality: str = "text", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.column, self.modality = dim, column, modality
        self.output_dim, self.feature_groups = dim, [dim]

    @classmethod
    def from_settings(cls, config: EmbeddingTowerConfig, **kwargs: Any) -> EmbeddingTower:
        """The tower of these settings."""
        return cls(config.dim, config.name, config.modality, **kwargs)

    @property
    def input_name(self) -> str:
        """Name of the encoder's input."""
        return f"embedding_{self.column}"

    def build(self, embedding_shape: Any) -> None:
        check_rank(self, "embedding", embedding_shape, "batch dim")
        if embedding_shape[-1] != self.dim:
            raise ValueError(
                f"EmbeddingTower: `{self.column}` must have {self.dim} dimensions; received {embedding_shape[-1]}. "
                "Set embeddings.dim to the width of the column."
            )

    def call(self, embedding: Any) -> Any:
        return l2_normalize(embedding)

    def compute_output_shape(self, embedding_shape: Any) -> tuple:
        return tuple(embedding_shape)
