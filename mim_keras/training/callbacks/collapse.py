"""Stops a training whose embeddings collapse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mim_keras.metrics.collapse import effective_rank, mean_pairwise_cosine

SAMPLE = 4096


class CollapseError(RuntimeError):
    """Embeddings no longer separate items.  The message has the measured similarity and remedies."""


class TerminateOnCollapse(keras.callbacks.Callback):
    """Adds `mean_cosine` and `effective_rank` of the embeddings to the logs of each epoch, and raises on collapse.

    Items of one kind may be alike before the training begins.  So embeddings have collapsed where their mean cosine is
    above the threshold, and more than half way from where it began to 1.

    Args:
        embeddings: Returns L2-normalised embeddings [n, d]; a sample of `SAMPLE` is used.
        threshold: Mean cosine of two different items above which they may have collapsed; 1 never raises.

    The beginning is the moment at which the callback is made, so that a training that resumes from a checkpoint is
    judged as one that was never stopped.
    """

    def __init__(self, embeddings: Callable[[], np.ndarray], threshold: float) -> None:
        super().__init__()
        self._embeddings, self._threshold = embeddings, threshold
        first = self._sample()
        self._first = mean_pairwise_cosine(first) if len(first) > 1 else -1.0

    def _sample(self) -> np.ndarray:
        embeddings = self._embeddings()
        embeddings = embeddings[np.any(embeddings != 0, axis=1)]
        if len(embeddings) > SAMPLE:
            embeddings = embeddings[np.random.default_rng(0).choice(len(embeddings), SAMPLE, replace=False)]
        return embeddings

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        embeddings = self._sample()
        if len(embeddings) < 2:
            return
        cosine, rank = mean_pairwise_cosine(embeddings), effective_rank(embeddings)
        if logs is not None:
            logs |= {"mean_cosine": cosine, "effective_rank": rank}
        # Written so that NaN, of a training that diverged, is a collapse.
        if not cosine <= max(self._threshold, (1 + self._first) / 2) and self._threshold < 1:
            raise CollapseError(
                f"stage 2 must keep the mean cosine of two items at or below csft.collapse_threshold = "
                f"{self._threshold}; received {cosine:.3f} after epoch {epoch + 1}, {self._first:.3f} before the "
                f"first, with an effective rank of {rank:.1f}. Lower csft.training.learning_rate, raise "
                "csft.align_weight or the batch size, or add negatives; csft.collapse_threshold=1 continues regardless."
            )
