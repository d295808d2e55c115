"""A run that is killed in the middle resumes.  Its ranker is an ensemble of two and is served as one.  Settings that
come back bring their release back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations

from serving.client import RANKER
from serving.releases import Release, ReleaseStore
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import restore_vectors
from tests.conftest import Run
from tests.e2e.test_pipeline import folder, pushed
from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import executions
from tfx_pipeline.runners.newest import newest_metrics
from tfx_pipeline.settings import Settings

AT = 16
TWO_RANKERS = ["stages.encoder.item_embedding_parts=[joint, text_features]", f"stages.ciubm.ensemble_split_dim={AT}"]


def test_a_killed_run_resumes(shop: Path, tiny_config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfx_pipeline.cli", "run", "--config", str(tiny_config), "--data", str(shop)]
    command += [word for one in TWO_RANKERS for word in ("--set", one)]
    log = tmp_path / "stderr"
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--root", str(tmp_path / "root")], stderr=output, start_new_session=True)
        deadline = time.monotonic() + 240
        while "] Trainer.pretrain" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    root = tmp_path / "root"
    first = executions(root)
    finished = {node for node, state in first if state == "COMPLETE"}
    assert "CatalogueGen" in {node.split(".")[-1] for node in finished}
    assert not any("ciubm" in node for node, _ in first)

    local.run(Settings.load(tiny_config, TWO_RANKERS), str(shop), str(tmp_path / "root"))
    second = executions(root)[len(first) :]
    assert {node for node, state in second if state == "CACHED"} >= finished
    assert not any(state == "FAILED" for _, state in second)
    ranks_by_both_parts(Run(tmp_path / "root", shop, tiny_config, None))
    settings_that_come_back(tmp_path / "root", shop, tiny_config)


def settings_that_come_back(root: Path, shop: Path, config: Path) -> None:
    """A was run; after B, and after a ranker that is not accepted, A again."""
    store = ReleaseStore(root)

    def run(*more: str) -> tuple[Release, dict[str, Any], str]:
        local.run(Settings.load(config, [*TWO_RANKERS, *more]), str(shop), str(root))
        release = store.current()
        assert release is not None
        facts = json.loads((root / f"models/{RANKER}/{release.version}/assets.extra/mim.json").read_text())
        assert facts["encoder_version"] == release.encoder_version
        return release, newest_metrics(root), (root / "report.html").read_text()

    def rounded(metrics: dict[str, Any]) -> list[float]:
        return [round(metrics[name], 6) for name in ("auc", "gauc", "logloss")]

    def verdict(page: str) -> str:
        return page[page.index("Baselines: ") :][:120]

    first, metrics, page = store.current(), newest_metrics(root), (root / "report.html").read_text()
    assert first is not None
    other, other_metrics, other_page = run("stages.ciubm.training.seed=5")
    assert other.id != first.id
    assert rounded(other_metrics) != rounded(metrics)
    refused, refused_metrics, _ = run("stages.ciubm.training.seed=6", "evaluation.min_auc=0.999")
    assert refused == other, "a ranker that is not accepted changes nothing that is served"
    assert refused_metrics["released"] is False
    again, again_metrics, again_page = run()
    assert again.id == first.id
    assert again.version > other.version
    assert rounded(again_metrics) == rounded(metrics)
    assert verdict(again_page) == verdict(page) != verdict(other_page)


def ranks_by_both_parts(run: Run) -> None:
    signatures = tf.saved_model.load(str(pushed(run, RANKER))).signatures
    snapshot = Snapshot.load(folder(run, "EmbeddingExporter", "embeddings"))
    vectors = restore_vectors(snapshot.vectors[:12])
    assert vectors.shape[1] > AT
    ids = [str(item_id) for item_id in snapshot.item_ids]
    history = {"history_item_ids": tf.constant(ids[20:24]), "history_ages": tf.constant([9000, 600, 60, 1], tf.int64)}
    asked = {"user_id": tf.constant(["u1"]), "candidate_item_ids": tf.constant(ids[:12]), **history}
    facts = json.loads((pushed(run, RANKER) / "assets.extra/mim.json").read_text())
    names = [f"candidate_{name}" for name in facts["attributes"]]
    attributes = dict.fromkeys(names, tf.constant([""] * 12))
    version = tf.constant([snapshot.manifest.encoder_version])

    def given(of: np.ndarray) -> np.ndarray:
        vectors = {"candidate_vectors": tf.constant(of), "encoder_version": version}
        return np.asarray(signatures["rank_with_vectors"](**asked, **attributes, **vectors)["ctr"])

    expected = np.asarray(signatures["rank"](**asked)["ctr"])
    np.testing.assert_allclose(given(np.zeros_like(vectors)), expected, atol=1e-6)
    np.testing.assert_allclose(given(vectors), expected, atol=2e-3)
    for part in (slice(AT), slice(AT, None)):
        other = vectors.copy()
        other[:, part] = vectors[::-1, part]
        assert not np.allclose(given(other), expected, atol=2e-3), "each part counts"
