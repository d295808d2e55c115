"""What an encoder finds of held-out pairs: over all, of purchases, and by how well their item was known."""

from __future__ import annotations

from typing import Any

import numpy as np

from mim_keras.config import SIGNALS
from mim_keras.layers.base import PADDING_ROW
from mim_keras.metrics.catalogue_recall import catalogue_hits
from mim_keras.metrics.collapse import mean_pairwise_cosine
from tfx_pipeline.run_fns.pairs import Pairs

MEASURED_PAIRS, K = 4_000, 10
TRAINED_ON = {"item of no training pair": (0, 0), "item of 1 to 5": (1, 5), "item of 6 or more": (6, np.inf)}


def pair_figures(joint: np.ndarray, pairs: Pairs, trained: Pairs, items: int) -> dict[str, Any]:
    """Recall@10 over the whole catalogue, and the collapse alarm.

    A query of several items is the mean of their vectors.

    Args:
        joint: Of every content, [n, d]; row r of the pairs is content r − 1.
        pairs: Held out.  Of each kind the first `MEASURED_PAIRS` are looked at.
        trained: The training pairs: how often their items were led to.
        items: How many of the rows, the first, are the catalogue.

    Returns:
        `mean_pairwise_cosine`; `chance`, of Recall@10; `recall_at_10` and `pairs`, how many these are, of `intents`
        and `histories`, each followed by its parts: those of one signal, where there are several, and those whose
        item the training pairs led to so often.
    """
    recall: dict[str, float] = {}
    count: dict[str, int] = {}
    led_to = np.bincount(trained.item_row, minlength=items + 1)[pairs.item_row]
    padded = np.concatenate([np.zeros((1, joint.shape[1]), joint.dtype), joint])
    for kind, of_kind in (("intents", pairs.is_intent), ("histories", ~pairs.is_intent)):
        kept = np.flatnonzero(of_kind)[:MEASURED_PAIRS]
        rows = pairs.query_rows[kept]
        query = np.sum(padded[rows] * (rows != PADDING_ROW)[..., None], axis=1)
        hit = catalogue_hits(query, joint[:items], pairs.item_row[kept] - 1, K)
        parts = {kind: np.ones(len(kept), bool)}
        signal = pairs.signal[kept]
        if len(np.unique(signal)) > 1:
            parts |= {f"{kind}: {name}": signal == place for place, name in enumerate(SIGNALS)}
        for name, (least, most) in TRAINED_ON.items():
            parts[f"{kind}: {name}"] = (led_to[kept] >= least) & (led_to[kept] <= most)
        for name, part in parts.items():
            if part.any():
                recall[name], count[name] = float(hit[part].mean()), int(part.sum())
    return {
        "mean_pairwise_cosine": mean_pairwise_cosine(joint[:items]),
        "chance": K / items,
        "recall_at_10": recall,
        "pairs": count,
    }


def overall_recall(figures: dict[str, Any]) -> float:
    """Recall@10 of all held-out pairs, from `pair_figures`; 0 where there are none."""
    kinds = [kind for kind in ("intents", "histories") if kind in figures["recall_at_10"]]
    pairs = sum(figures["pairs"][kind] for kind in kinds)
    return sum(figures["recall_at_10"][kind] * figures["pairs"][kind] for kind in kinds) / max(pairs, 1)
