"""References in NumPy."""

import numpy as np


def softmax_where(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * mask
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
