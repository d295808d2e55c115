"""Stops a training whose vectors become one and the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mim_keras.metrics.retrieval import effective_rank, mean_pairwise_cosine

SAMPLE = 4096


class CollapseError(RuntimeError):
    """The vectors no longer tell items apart.  The message says how far, and what helps."""


class CollapseAlarm(keras.callbacks.Callback):
    """After each epoch looks at the vectors of some items, adds `mean_cosine` and `effective_rank` to the figures, and
    stops the training where they have collapsed.

    Args:
        vectors: Gives vectors of length one, [n, d]; at most so many are looked at as `SAMPLE`.
        max_cosine: The mean cosine of two different items above which they count as collapsed; 1 never stops.
    """

    def __init__(self, vectors: Callable[[], np.ndarray], max_cosine: float) -> None:
        super().__init__()
        self._vectors, self._max_cosine = vectors, max_cosine

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        found = self._vectors()
        found = found[np.any(found != 0, axis=1)]
        if len(found) > SAMPLE:
            found = found[np.random.default_rng(0).choice(len(found), SAMPLE, replace=False)]
        if len(found) < 2:
            return
        cosine, rank = mean_pairwise_cosine(found), effective_rank(found)
        if logs is not None:
            logs |= {"mean_cosine": cosine, "effective_rank": rank}
        if cosine > self._max_cosine:
            raise CollapseError(
                f"stage 2 must keep items apart: their mean cosine may be {self._max_cosine}; "
                f"after epoch {epoch + 1} it is {cosine:.3f}, in {rank:.1f} directions. "
                "Lower csft.training.learning_rate, raise csft.align_weight or the batch size, or add pools of "
                "negatives; csft.max_cosine=1 goes on regardless."
            )
