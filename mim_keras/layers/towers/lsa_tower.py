"""N-grams to features: latent semantic analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.layers.base import Configurable, check_rank
from mim_keras.ops.normalization import l2_normalize_groups


@keras.saving.register_keras_serializable("mim")
class LSATower(Configurable, keras.layers.Layer):
    """Term ids → features: the weighted sum of the terms' rows of a table, each group of columns L2-normalised.

    The table comes from `mim_keras.preprocessing.ngrams.fit_lsa`.  It is not trained: a few thousand texts would
    overfit.

    Args:
        num_terms: Terms in the vocabulary.
        group_dims: Widths of the groups of columns: words, then each field of tags.

    Call arguments:
        term_ids: int [B, T]; 0 is padding, row i + 1 is term i.
        term_weights: float [B, T]; 0 for padding.

    Returns:
        float [B, output_dim]; zeros in a group of which the text has no term.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import LSATower
        >>> tower = LSATower(num_terms=2, group_dims=[2])
        >>> tower.build((None, None), (None, None))
        >>> tower.set_table(np.eye(2))
        >>> tower(np.array([[1, 2]]), np.array([[3.0, 4.0]], "float32")).numpy().round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    config_names = ("num_terms", "group_dims")

    def __init__(self, num_terms: int, group_dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_terms, self.group_dims = num_terms, tuple(group_dims)
        self.feature_groups = list(self.group_dims)
        self.output_dim = sum(self.feature_groups)

    def build(self, term_ids_shape: Any, term_weights_shape: Any) -> None:
        check_rank(self, "term_ids", term_ids_shape, "batch terms")
        shape = (self.num_terms + 1, self.output_dim)
        self.table = self.add_weight(shape=shape, initializer="random_normal", trainable=False, name="table")

    def set_table(self, table: np.ndarray) -> None:
        """Sets the rows of the terms, float [num_terms, output_dim]."""
        self.table.assign(np.concatenate([np.zeros((1, self.output_dim)), table]).astype(np.float32))

    def call(self, term_ids: Any, term_weights: Any) -> Any:
        weights = ops.cast(term_weights, self.compute_dtype)[:, None, :]  # (B, 1, T)
        total = ops.matmul(weights, ops.take(self.table, term_ids, axis=0))[:, 0]  # (B, output_dim)
        return l2_normalize_groups(total, self.feature_groups)

    def compute_output_shape(self, term_ids_shape: Any, term_weights_shape: Any) -> tuple:
        return (term_ids_shape[0], self.output_dim)
