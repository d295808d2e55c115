"""How well vectors find one another: Recall@K, and whether they have collapsed."""

from __future__ import annotations

import numpy as np


def recall_at(query: np.ndarray, items: np.ndarray, positive: np.ndarray, k: int) -> float:
    """Share of queries whose item is among the `k` most similar of all items; arguments as of `hits_at`."""
    return float(hits_at(query, items, positive, k).sum()) / max(len(query), 1)


def hits_at(query: np.ndarray, items: np.ndarray, positive: np.ndarray, k: int) -> np.ndarray:
    """Whether each query's item is among the `k` most similar of all items, bool [Q].

    Args:
        query: [Q, d].
        items: [N, d].
        positive: Row of each query's item, int [Q].
        k: How many are looked at.  Items that tie with the positive count against it.
    """
    hits = np.zeros(len(query), bool)
    for begin in range(0, len(query), 1024):
        similarity = query[begin : begin + 1024] @ items.T
        own = np.take_along_axis(similarity, positive[begin : begin + 1024, None], axis=1)
        hits[begin : begin + 1024] = (similarity >= own).sum(axis=1) <= k
    return hits


def mean_pairwise_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of two different vectors of length one, [n, d]; near 1 means they have collapsed."""
    n = len(vectors)
    total = np.square(vectors.sum(axis=0)).sum() - np.square(vectors).sum()
    return float(total / max(n * (n - 1), 1))


def effective_rank(vectors: np.ndarray) -> float:
    """How many directions vectors [n, d] really use: exp of the entropy of their covariance's spectrum, 1 to d.

    Source: Roy and Vetterli 2007, The effective rank; as a measure of collapse RankMe (2210.02885).
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    strength = np.linalg.svd(centred, compute_uv=False)
    total = strength.sum()
    if total < 1e-9:
        return 1.0
    share = strength / total
    share = share[share > 1e-12]
    return float(np.exp(-np.sum(share * np.log(share))))
