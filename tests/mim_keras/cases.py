"""One case for each public layer, loss, metric and model: how it is made, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from mim_keras import layers, losses, metrics
from mim_keras.config import TextTowerConfig
from mim_keras.layers import negatives, towers
from mim_keras.models import ContentBranch
from tests.mim_keras import tiny

B, LENGTH, D = 3, 5, 6


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


CODES = np.random.default_rng(3).integers(0, 4, (B, LENGTH, 3))
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
TOKENS = np.array([[5, 3, 9, 2, 0, 0], [7, 2, 0, 0, 0, 0], [1, 4, 8, 6, 3, 2]], "int32")
SHOWN = (TOKENS > 0).astype("float32")
HISTORY = {"history": uniform(B, LENGTH, D, seed=1), "history_mask": MASK}
SIMILARITY = uniform(B, LENGTH, seed=2)
TARGET = layers.EncodedTarget(
    uniform(B, D),
    uniform(B, 4, seed=3),
    uniform(B, 3, seed=4),
    np.array([True, False, True]),
    uniform(B, 7, seed=5),
    CODES[:, 0],
)
ENCODED = layers.EncodedHistory(
    uniform(B, LENGTH, 3 + D, seed=6),
    MASK,
    uniform(B, D, seed=7),
    uniform(B, LENGTH, 4, seed=8),
    MASK,
    uniform(B, 3, seed=9),
    uniform(B, LENGTH, 7, seed=10),
    CODES,
)


class Case(NamedTuple):
    """A layer and its call.

    Attributes:
        make: A new layer, with further keyword arguments of its constructor.
        inputs: Keyword arguments of the call.
        wrong: Inputs of a shape that must be refused, and the name that the message must hold.
    """

    make: Callable[..., Any]
    inputs: dict[str, Any]
    wrong: tuple[str, Any] | None = None


def item_table(**options: Any) -> layers.ItemTable:
    return layers.ItemTable.from_data(tiny.item_data(), **options)


def encoder_parts() -> dict[str, Any]:
    return {
        "item_table": item_table(),
        "attribute_embedding": layers.AttributeEmbedding(3, 3),
        "id_embedding": keras.layers.Embedding(tiny.ITEMS, 4, dtype="float32"),
        "content_projection": keras.layers.Dense(5, use_bias=False),
    }


def history_encoder(**options: Any) -> layers.HistoryEncoder:
    return layers.HistoryEncoder(**encoder_parts(), recency_heads=2, needs_embedding=True, **options)


def interest_attention(**options: Any) -> layers.InterestAttention:
    own = dict(options)
    attentions = [
        layers.TargetAttention(4, **own),
        layers.ModalAttention(4, **own),
        layers.SemanticTargetAttention(4, heads=2, **own),
    ]
    return layers.InterestAttention(attentions, **options)


def auxiliary_data(**options: Any) -> layers.AuxiliaryData:
    table = layers.AuxiliaryData(**options)
    table.set_data({"features": uniform(4, 2)})
    return table


def momentum_encoder(**options: Any) -> layers.MomentumEncoder:
    encoder = keras.Sequential([keras.Input((D,)), keras.layers.Dense(2)])
    return layers.MomentumEncoder(encoder, 0.9, **options)


def text_tower(**options: Any) -> towers.TextTower:
    config = TextTowerConfig(layers=1, heads=2, hidden_dim=8, max_tokens=6)
    return towers.TextTower.from_settings(config, 10, **options)


ROWS = np.array([[1, 4, 0], [2, 0, 0], [0, 0, 0]])
IMAGES = (np.round(uniform(B, 16, 16, 3) * 4) / 4 + 1) / 2  # no colour so near an edge that rounding moves it
ATTENTION = {"target": uniform(B, D), **HISTORY}
SEMANTIC = {"target": uniform(B, D), "history": HISTORY["history"], "similarity": SIMILARITY, "history_mask": MASK}
MODAL = {**SEMANTIC, "side_features": uniform(B, LENGTH, 2 * D, seed=11)}
FLAT_HISTORY = ("history", uniform(B, D))
HARD = {
    "embedding": uniform(B, 2, D),
    "item_row": np.array([[4, 5], [6, 7], [8, 0]]),
    "positive_row": np.array([5, 1, 2]),
    "query_rows": np.array([[6, 0], [7, 0], [9, 3]]),
}
SHARED = {"embedding": uniform(B, D), "item_row": np.array([4, 5, 6])}
FUSION = {
    "image": uniform(B, D),
    "text": uniform(B, D, seed=1),
    "has_image": np.array([1, 0, 1], "float32"),
    "has_text": np.array([1, 1, 0], "float32"),
}
LAYERS = {
    "TargetAttention": Case(lambda **k: layers.TargetAttention(4, heads=2, **k), ATTENTION, FLAT_HISTORY),
    "DINAttention": Case(lambda **k: layers.DINAttention(4, 5, **k), ATTENTION, FLAT_HISTORY),
    "ModalAttention": Case(lambda **k: layers.ModalAttention(4, **k), MODAL, ("similarity", uniform(B, LENGTH, 1))),
    "SemanticTargetAttention": Case(
        lambda **k: layers.SemanticTargetAttention(4, heads=2, **k), SEMANTIC, ("similarity", uniform(B, LENGTH + 1))
    ),
    "SimTier": Case(
        layers.SimTier, {"similarity": SIMILARITY, "similarity_mask": MASK}, ("similarity", uniform(B, LENGTH, 1))
    ),
    "TopKSearch": Case(
        lambda **k: layers.TopKSearch(2, **k),
        {"similarity": SIMILARITY, "history_mask": MASK},
        ("similarity", uniform(3)),
    ),
    "CrossDeepHead": Case(
        lambda **k: layers.CrossDeepHead(2, (6, 5), projection_dim=4, **k),
        {"features": uniform(B, D)},
        ("features", uniform(B, LENGTH, D)),
    ),
    "MultiGateHead": Case(
        lambda **k: layers.MultiGateHead(2, 3, 1, (5,), projection_dim=4, **k),
        {"features": uniform(B, D)},
        ("features", uniform(B, LENGTH, D)),
    ),
    "AttributeEmbedding": Case(lambda **k: layers.AttributeEmbedding(4, 5, **k), {"codes": ROWS}),
    "CompositionalEmbedding": Case(lambda **k: layers.CompositionalEmbedding(10, 4, 3, "two_hash", **k), {"ids": ROWS}),
    "AttributeMatch": Case(
        lambda **k: layers.AttributeMatch((1, 2), **k),
        {"target": CODES[:, 0], "history": CODES, "history_mask": MASK},
        ("target", CODES),
    ),
    "LearnedSimilarity": Case(
        lambda **k: layers.LearnedSimilarity(4, **k),
        {"target": uniform(B, D), "history": uniform(B, LENGTH, D, seed=1), "history_mask": MASK},
        ("target", uniform(D)),
    ),
    "MeanPooling": Case(layers.MeanPooling, {"target": TARGET, "history": ENCODED}),
    "InterestAttention": Case(
        interest_attention, {"target": TARGET, "history": ENCODED, "similarity": layers.Similarity(SIMILARITY, MASK)}
    ),
    "ItemTable": Case(item_table, {"rows": ROWS}),
    "TargetEncoder": Case(
        lambda **k: layers.TargetEncoder(**encoder_parts(), **k), {"item_row": np.array([1, 2, 4])}, ("item_row", ROWS)
    ),
    "HistoryEncoder": Case(
        history_encoder, {"rows": ROWS, "ages": np.array([[9, 3, 0]] * 3)}, ("rows", np.array([1, 2, 3]))
    ),
    "AuxiliaryData": Case(auxiliary_data, {"rows": np.array([3, 1])}),
    "MomentumEncoder": Case(momentum_encoder, {"inputs": uniform(B, D)}),
    "InBatchNegatives": Case(negatives.InBatchNegatives, SHARED, ("embedding", uniform(B))),
    "CrossReplicaNegatives": Case(negatives.CrossReplicaNegatives, SHARED, ("item_row", np.array([[1], [2], [3]]))),
    "HardNegatives": Case(negatives.HardNegatives, HARD, ("embedding", uniform(B, D))),
    "NegativeQueue": Case(lambda **k: negatives.NegativeQueue(4, D, **k), {"embedding": uniform(B, D)}),
    "ProjectionHead": Case(
        lambda **k: layers.ProjectionHead(4, 5, **k), {"features": uniform(B, D)}, ("features", uniform(D))
    ),
    "GatedFusion": Case(layers.GatedFusion, FUSION, ("image", uniform(B, D, 1))),
    "ResidualAdapter": Case(layers.ResidualAdapter, {"view": uniform(B, D)}, ("view", uniform(D))),
    "ColorHistogram": Case(towers.ColorHistogram, {"images": IMAGES}, ("images", IMAGES[0])),
    "ImageTower": Case(
        lambda **k: towers.ImageTower(16, (4, 6), color_histogram=True, **k), {"images": IMAGES}, ("images", IMAGES[0])
    ),
    "TextTower": Case(text_tower, {"token_ids": TOKENS, "padding_mask": SHOWN}, ("token_ids", TOKENS[0])),
    "DropMaskedTokens": Case(
        lambda **k: towers.DropMaskedTokens(end=2, pad=0, **k),
        {"token_ids": TOKENS, "padding_mask": SHOWN},
        ("token_ids", TOKENS[0]),
    ),
    "LSATower": Case(
        lambda **k: towers.LSATower(9, (3, 2), **k),
        {"term_ids": TOKENS, "term_weights": SHOWN},
        ("term_ids", TOKENS[0]),
    ),
    "EmbeddingTower": Case(
        lambda **k: towers.EmbeddingTower(D, "clip", **k), {"embedding": uniform(B, D)}, ("embedding", uniform(D))
    ),
}
LOSSES = {
    "InfoNCE": (losses.InfoNCE, np.array([0, 2, 1]), uniform(B, 4)),
    "CLIPLoss": (losses.CLIPLoss, np.array([1, 0, 1], "float32"), uniform(B, B)),
    "SigLIPLoss": (losses.SigLIPLoss, np.array([1, 0, 1], "float32"), uniform(B, B)),
}
LABELS, SCORES = np.array([1.0, 0.0, 1.0]), np.array([0.9, 0.2, 0.4], "float32")
METRICS = {
    "StreamingGAUC": (lambda: metrics.StreamingGAUC(users=2), (LABELS, SCORES), {"user": np.array([0, 0, 1])}),
    "CalibrationError": (metrics.CalibrationError, (LABELS, SCORES), {}),
    "CatalogueRecallAtK": (lambda: metrics.CatalogueRecallAtK(1), (np.array([2]), np.eye(3)[2:], np.eye(3)), {}),
}


def content_branch() -> ContentBranch:
    return ContentBranch(tiny.ranker())


CLICKS = (tiny.ranker_inputs(), np.array([0, 1, 0, 1, 1, 0], "float32"))
CATEGORIES = np.eye(4, dtype="float32")[np.arange(tiny.CONTENTS) % 4]
MODELS = {
    "CiUBM": (tiny.ranker, *CLICKS),
    "RankerEnsemble": (lambda: tiny.any_ranker(tiny.ranker_config(ensemble_split_dim=6)), *CLICKS),
    "ContentBranch": (content_branch, *CLICKS),
    "ItemEncoder": (lambda: tiny.tiny_encoder()[0], tiny.encoder_inputs(), None),
    "ImageTextAlignment": (tiny.alignment, tiny.encoder_inputs(), CATEGORIES),
    "Csft": (lambda: tiny.csft(frozen=False), tiny.with_content(tiny.pairs()), None),
}
