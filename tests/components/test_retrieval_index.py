"""The index of a snapshot, of one without any embedding too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.retrieval_index.executor import export_index
from serving.representation_center.snapshot import Manifest, Snapshot
from serving.representation_center.vectors import store_vectors


@pytest.mark.parametrize("known", [0, 1, 5])
def test_items_without_an_embedding_are_no_neighbours_and_have_none(tmp_path: Path, known: int) -> None:
    vectors = np.eye(6, dtype=np.float32) * (np.arange(6) < known)[:, None]
    snapshot = Snapshot(
        Manifest("v", "d", 6, "int8", 6, {}, 0.0),
        np.array([f"i{n}" for n in range(6)]),
        store_vectors(vectors),
        np.where(np.arange(6) < known, 3, 0).astype(np.uint8),
        np.array(["0" * 32] * 6),
    )
    export_index(snapshot, neighbours=3, folder=str(tmp_path / "index"))
    served = tf.saved_model.load(str(tmp_path / "index")).signatures
    found = served["similar_items"](item_id=tf.constant(["i0", "i5", "", "unknown"]))
    assert found["item_ids"].shape == (4, min(3, known))
    scores = found["scores"].numpy()
    assert not scores[1:].any()
    if known:
        assert found["item_ids"].numpy()[0, 0] == b"i0"
        assert scores[0, 0] == pytest.approx(1.0, abs=0.01)
    assert served["serving_default"](embedding=tf.zeros([2, 6]))["scores"].shape == (2, min(3, known))
