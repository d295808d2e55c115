"""A run that is killed in the middle goes on from where it was; its ranker is two, of two parts of the vector, and is
served as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations

from serving.client import RANKER
from serving.representation_center.snapshot import Snapshot, restore_vectors
from tests.conftest import Run
from tests.e2e.test_pipeline import folder, pushed
from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import executions
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
    metadata = str(tmp_path / "root/metadata.sqlite")
    first = executions(metadata)
    finished = {node for node, state in first if state == "COMPLETE"}
    assert "CatalogueGen" in {node.split(".")[-1] for node in finished}
    assert not any("ciubm" in node for node, _ in first)

    local.run(Settings.load(tiny_config, TWO_RANKERS), str(shop), str(tmp_path / "root"))
    second = executions(metadata)[len(first) :]
    assert {node for node, state in second if state == "CACHED"} >= finished
    assert not any(state == "FAILED" for _, state in second)
    ranks_by_both_parts(Run(tmp_path / "root", shop, tiny_config, None))


def ranks_by_both_parts(run: Run) -> None:
    signatures = tf.saved_model.load(str(pushed(run, RANKER))).signatures
    snapshot = Snapshot.load(folder(run, "EmbeddingExporter", "embeddings"))
    vectors = restore_vectors(snapshot.vectors[:12])
    assert vectors.shape[1] > AT
    ids = [str(item_id) for item_id in snapshot.item_ids]
    history = {"history_item_ids": tf.constant(ids[20:24]), "history_ages": tf.constant([9000, 600, 60, 1], tf.int64)}
    asked = {"user_id": tf.constant(["u1"]), "candidate_item_ids": tf.constant(ids[:12]), **history}
    version = tf.constant([snapshot.manifest.encoder_version])

    def given(of: np.ndarray) -> np.ndarray:
        told = signatures["rank_with_vectors"](**asked, candidate_vectors=tf.constant(of), encoder_version=version)
        return np.asarray(told["ctr"])

    expected = np.asarray(signatures["rank"](**asked)["ctr"])
    np.testing.assert_allclose(given(np.zeros_like(vectors)), expected, atol=1e-6)
    np.testing.assert_allclose(given(vectors), expected, atol=2e-3)
    for part in (slice(AT), slice(AT, None)):
        other = vectors.copy()
        other[:, part] = vectors[::-1, part]
        assert not np.allclose(given(other), expected, atol=2e-3), "each part counts"
