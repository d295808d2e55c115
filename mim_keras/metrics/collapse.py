"""Whether embeddings have collapsed into few directions.  NumPy."""

from __future__ import annotations

import numpy as np


def mean_pairwise_cosine(embeddings: np.ndarray) -> float:
    """Mean cosine of two different unit embeddings [n, d]; near 1 they have collapsed."""
    n = len(embeddings)
    total = np.square(embeddings.sum(axis=0)).sum() - np.square(embeddings).sum()
    return float(total / max(n * (n - 1), 1))


def effective_rank(embeddings: np.ndarray) -> float:
    """Number of directions that embeddings [n, d] use: exp of the entropy of their singular values' shares, 1 to d; NaN
    where an embedding is not finite.

    Source: Roy and Vetterli 2007, The effective rank; as a measure of collapse RankMe (2210.02885).
    """
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0)
    if not np.isfinite(centred).all():
        return float("nan")
    singular_values = np.linalg.svd(centred, compute_uv=False)
    total = singular_values.sum()
    if total < 1e-9:
        return 1.0
    share = singular_values / total
    share = share[share > 1e-12]
    return float(np.exp(-np.sum(share * np.log(share))))
