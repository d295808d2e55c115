"""The common checks for the layers that have no file of their own, and that no layer goes without them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import keras
import numpy as np
import pytest

import mim_keras
from mim_keras.config import ImageTowerConfig, TextTowerConfig
from mim_keras.contrast.momentum import Followers
from mim_keras.contrast.negative_queue import NegativeQueue
from mim_keras.csft import Seeker
from mim_keras.embedding_table import EmbeddingTable
from mim_keras.encoders.backbones import ShownTokens
from mim_keras.encoders.image_tower import ImageTower
from mim_keras.encoders.lexical_tower import LexicalTower
from mim_keras.encoders.projection_head import ProjectionHead
from mim_keras.encoders.text_tower import TextTower
from mim_keras.interest.history_attention import HistoryAttention
from mim_keras.interest.long_history import CosineSearch
from mim_keras.item_table import ItemTable
from tests.mim_keras import test_interest
from tests.mim_keras.layer_harness import check_layer

pytestmark = pytest.mark.any_backend

WORDS = TextTowerConfig(layers=1, heads=2, hidden_dim=8, max_tokens=6)
TOKENS = np.array([[5, 3, 9, 2, 0, 0], [7, 2, 0, 0, 0, 0], [1, 4, 8, 6, 3, 2]], "int32")
SHOWN = (TOKENS > 0).astype("float32")


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=shape).astype("float32")


PRESENT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
LAYERS = {
    "linear head": (lambda: ProjectionHead(4), {"features": drawn(3, 6)}),
    "head with a network": (lambda: ProjectionHead(4, 5), {"features": drawn(3, 6)}),
    "pictures": (lambda: ImageTower(ImageTowerConfig(size=16, widths=(4, 6))), {"images": drawn(3, 16, 16, 3)}),
    "pictures and colours": (
        lambda: ImageTower(ImageTowerConfig(size=16, widths=(4,), colours=True)),
        {"images": np.round(drawn(3, 16, 16, 3) * 4) / 4},  # no colour so near an edge that rounding moves it
    ),
    "words": (lambda: TextTower(WORDS, 10), {"token_ids": TOKENS, "padding_mask": SHOWN}),
    "shown tokens": (lambda: ShownTokens(end=2, pad=0), {"token_ids": TOKENS, "mask": SHOWN}),
    "search": (lambda: CosineSearch(2), {"similarity": drawn(3, 4), "present": PRESENT}),
    "embeddings": (lambda: EmbeddingTable(6, 2), {"numbers": np.array([[5, 1], [2, 3], [4, 0]], "int32")}),
    "seeker": (Seeker, {"mean": drawn(3, 6)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_harness(name: str, tmp_path: Path) -> None:
    make, inputs = LAYERS[name]
    check_layer(make, inputs, tuple(n for n, v in inputs.items() if v.dtype == np.float32), tmp_path)


def test_no_layer_is_left_out() -> None:
    for module in pkgutil.walk_packages(mim_keras.__path__, "mim_keras."):
        importlib.import_module(module.name)

    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    ours = {kind for kind in below(keras.layers.Layer) if kind.__module__.startswith("mim_keras")}
    layers = {kind for kind in ours if not issubclass(kind, keras.Model)}
    checked = {type(make()) for make, _ in [*LAYERS.values(), *test_interest.LAYERS.values()]} | {LexicalTower}
    # A base class, and three that map no numbers to numbers, tested in test_contrast, test_stages and test_ranker.
    others = {HistoryAttention, NegativeQueue, Followers, ItemTable}
    assert layers - checked - others == set()
