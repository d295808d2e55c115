"""Several replicas train to the weights of one: two devices of a process, and two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start(out: Path, strategy: str, *words: str, task: dict | None = None) -> subprocess.Popen:
    env = {**ENVIRONMENT, **({"TF_CONFIG": json.dumps(task)} if task else {})}
    command = [sys.executable, str(HERE / "workers_script.py"), str(out), strategy, *words]
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def start_two(folder: Path, *words: tuple[str, ...]) -> list[subprocess.Popen]:
    """Two workers, the last arguments of each in `words`; their results are worker0.npz and worker1.npz."""
    addresses = [f"localhost:{free_port()}" for _ in range(2)]
    return [
        start(
            folder / f"worker{index}.npz",
            "multi_worker",
            *words[index],
            task={"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    ]


def wait(processes: list[subprocess.Popen], folder: Path) -> None:
    try:
        for process in processes:
            assert process.wait(300) == 0, "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.lib.npyio.NpzFile, np.lib.npyio.NpzFile]:
    """Results of two workers that nothing interrupts."""
    folder = tmp_path_factory.mktemp("two")
    wait(start_two(folder, (), ()), folder)
    return np.load(folder / "worker0.npz"), np.load(folder / "worker1.npz")


def test_two_devices_train_to_the_weights_of_one() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "mirrored_script.py")], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_to_the_weights_of_one(two: tuple, tmp_path: Path) -> None:
    wait([start(tmp_path / "alone.npz", "one_device")], tmp_path)
    alone, (first, second) = np.load(tmp_path / "alone.npz"), two
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for name in alone.files:
        np.testing.assert_allclose(alone[name], first[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("stage", ["pretrain", "csft", "ciubm"])
def test_both_resume_from_the_checkpoint_after_one_was_killed(two: tuple, stage: str, tmp_path: Path) -> None:
    checkpoints = str(tmp_path / "checkpoints")
    processes = start_two(tmp_path, (checkpoints,), (checkpoints, stage))
    try:
        assert processes[1].wait(300) == -signal.SIGKILL, (tmp_path / "worker1.log").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [path.parent.name for path in Path(checkpoints).rglob("*.npz")] == [stage]
    wait(start_two(tmp_path, (checkpoints,), (checkpoints,)), tmp_path)
    for index, whole in enumerate(two):
        assert f"{stage}: resumes after epoch 1 of 2" in (tmp_path / f"worker{index}.log").read_text()
        resumed = np.load(tmp_path / f"worker{index}.npz")
        for name in whole.files:
            np.testing.assert_allclose(resumed[name], whole[name], atol=1e-6, err_msg=name)
