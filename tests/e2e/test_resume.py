"""A run that is killed in the middle goes on from where it was; its ranker is two, of two parts of the vector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import executions
from tfx_pipeline.settings import Settings

TWO_RANKERS = ["stages.encoder.vector=[joint, text_features]", "stages.ciubm.ensemble_at=16"]


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
    assert {node for node, state in second if state == "CACHED"} >= {n for n in finished if "LatestBlessed" not in n}
    assert not any(state == "FAILED" for _, state in second)
    assert list((tmp_path / "root/models/mim_ranker").iterdir())
