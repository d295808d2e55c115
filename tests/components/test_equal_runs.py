"""Equal runs, each in a process of its own, write equal rows in equal order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.examples import SPLITS, declare_splits
from tests.components import runner

SCRIPT = """
import sys
from pathlib import Path
from tests.components import runner
data, out = Path(sys.argv[1]), Path(sys.argv[2])
items = runner.run_catalogue(data, out)
runner.run_histories(data, out, runner.run_impressions(data, out, items))
"""


@pytest.fixture(scope="module")
def runs(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    outs = [tmp_path_factory.mktemp("out") for _ in range(2)]
    command = [sys.executable, "-c", SCRIPT, str(shop)]
    processes = [subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL) for out in outs]
    assert [process.wait() for process in processes] == [0, 0]
    return outs


@pytest.mark.parametrize("split", ["train", "valid"])
def test_ranking_examples(runs: list[Path], split: str) -> None:
    found = []
    for out in runs:
        made = runner.artifact(out / "examples")
        declare_splits(made, SPLITS)
        found.append(runner.read(made, split))
    assert found[0] == found[1]
