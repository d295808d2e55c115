"""Two processes train as one: all three stages, on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.ports import free_port

SCRIPT = Path(__file__).parent / "workers_script.py"


def start(out: Path, strategy: str, task: dict | None = None) -> subprocess.Popen:
    env = {**os.environ, **({"TF_CONFIG": json.dumps(task)} if task else {})}
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen([sys.executable, str(SCRIPT), str(out), strategy], env=env, stdout=log, stderr=log)


def test_two_processes_train_to_the_weights_of_one(tmp_path: Path) -> None:
    addresses = [f"localhost:{free_port()}" for _ in range(2)]
    processes = {"alone": start(tmp_path / "alone.npz", "one_device")}
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes[f"worker{index}"] = start(tmp_path / f"worker{index}.npz", "multi_worker", task)
    try:
        for name, process in processes.items():
            assert process.wait(240) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    finally:
        for process in processes.values():
            process.kill()
    alone, first, second = (np.load(tmp_path / f"{name}.npz") for name in processes)
    assert any(name.startswith("aligned") for name in first.files)
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for name in (name for name in alone.files if not name.startswith("aligned")):
        np.testing.assert_allclose(alone[name], first[name], atol=1e-5, err_msg=name)
