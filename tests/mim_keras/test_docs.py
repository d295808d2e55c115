"""The code of the models page runs as it stands, and its models learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mim_keras.metrics import auc

PAGE = Path(__file__).parents[2] / "docs/models.md"


def test_the_page_runs_and_its_models_learn() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    color, embeddings, clicked = names["color"], names["embeddings"], names["clicked"]
    title = 2 * color + names["thing"]
    nearest = (names["aligned"]["image"] @ names["aligned"]["text"].T).argmax(axis=1)
    assert (title[nearest] == title).mean() > 0.9  # stage 1
    cosine, same = embeddings @ embeddings.T, color[:, None] == color[None, :]
    assert cosine[same].mean() > cosine[~same].mean() + 0.3  # stage 2
    assert auc(clicked, names["score"]) > 0.9  # stage 3, after saving and loading
    np.testing.assert_allclose(names["click_rates"][:, 0], names["score"][:5], atol=1e-6)
    gauc, calibration, recall = names["results"]
    assert gauc > 0.9
    assert calibration < 0.1
    assert recall > 0.5
    np.testing.assert_allclose(
        names["encoder"].predict(names["content"], verbose=0)["embedding"], embeddings, atol=1e-6
    )
    assert len(names["history"]["loss"]) == names["training"].epochs
