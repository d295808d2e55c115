"""What a result file says of where it comes from."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from benchmarks import report


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with one commit."""
    for name in ("mim_keras/a.py", "benchmarks/b.py", "benchmarks/results/c.json", "docs/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@pytest.mark.parametrize("staged", [False, True])
def test_the_commit_is_told_and_whether_code_differs_from_it(checkout: Path, staged: bool) -> None:
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert report.commit(checkout) == head
    for name in ("benchmarks/results/c.json", "docs/d.md", "mim_keras/untracked.py"):
        (checkout / name).write_text("2\n")
    assert report.commit(checkout) == head
    for name in ("mim_keras/a.py", "benchmarks/b.py"):
        (checkout / name).write_text("2\n")
        if staged:
            git(checkout, "add", name)
        assert report.commit(checkout) == f"{head}+changes"
        git(checkout, "checkout", "--quiet", "HEAD", "--", name)
    assert report.commit(checkout) == head


def test_without_a_checkout_of_its_own_there_is_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report.commit(tmp_path_factory.mktemp("none")) is None
    assert report.commit(checkout / "mim_keras") is None  # a copy inside another project
    empty = tmp_path_factory.mktemp("empty")
    git(empty, "init", "--quiet")
    assert report.commit(empty) is None
    monkeypatch.setenv("PATH", "")
    assert report.commit(checkout) is None  # no git


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/home/me/.venv/bin/mim", "bench", "train", "--turns", "3"], "mim bench train --turns 3"),
        (["/home/me/mim/tfx_pipeline/cli.py", "bench", "rank"], "mim bench rank"),
        (
            ["/home/me/mim/benchmarks/train.py", "--baseline", "/home/me/old/"],
            "python -m benchmarks.train --baseline old",
        ),
        (["benchmarks/train.py", "--baseline", "../old"], "python -m benchmarks.train --baseline ../old"),
        (["mim", "bench", "pipeline", "--data=/data/ml 1m"], "mim bench pipeline '--data=ml 1m'"),
        (
            ["mim", "--set", "text.preset=/a/b", "--redis", "redis://h:1/0"],
            "mim --set text.preset=b --redis redis://h:1/0",
        ),
    ],
)
def test_the_command_is_told_without_this_machine_s_paths(words: list[str], shown: str) -> None:
    assert report.command(words) == shown


def test_a_result_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["/bin/mim", "bench", "some"])
    found = report.publish("some", 2.0, "x", 3.0, {"a": 1}, less_is_better=True)
    assert json.loads((tmp_path / "results/some.json").read_text()) == found
    assert (found["value"], found["met"], found["command"]) == (2.0, True, "mim bench some")
    assert found["commit"] == report.commit()
    when = datetime.fromisoformat(found["date"])
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(when.tzinfo) - when) < timedelta(minutes=1)
    machine = found["machine"]
    assert machine["cores"] == os.cpu_count()
    assert machine["memory_gib"] * 2**30 == pytest.approx(psutil.virtual_memory().total, rel=0.1)
    if machine["cpu"] is not None:
        assert f": {machine['cpu']}\n" in Path("/proc/cpuinfo").read_text()
