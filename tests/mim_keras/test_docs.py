"""The guide's code runs as it stands, and learns what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mim_keras.metrics.gauc import auc

GUIDE = Path(__file__).parents[2] / "docs/models.md"


def test_the_guide_runs_and_learns() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), names)
    colour, vectors = names["colour"], names["vectors"]
    title = 2 * colour + names["thing"]
    nearest = (names["aligned"]["image"] @ names["aligned"]["text"].T).argmax(axis=1)
    assert (title[nearest] == title).mean() > 0.9  # stage 1: a picture finds words of its own
    cosine = vectors @ vectors.T
    same = colour[:, None] == colour[None, :]
    assert cosine[same].mean() > cosine[~same].mean() + 0.3
    score = names["ranker"](names["inputs"])["ctr"].numpy()
    assert auc(names["clicked"], score) > 0.9
    assert np.shape(names["click_rates"]) == (5,)
    gauc, calibration, recall = names["figures"]
    assert gauc == pytest.approx(auc(names["clicked"], np.round(score * 255)), abs=1e-4)  # of one user
    assert calibration < 0.1
    assert recall > 0.5
