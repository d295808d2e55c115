"""Runs that are killed at random moments, and then run to their end, release whole models of the same encoder."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.daily_shop import SPANS, write_daily_shop
from serving.releases import ReleaseStore
from tests.conftest import TINY_CONFIG
from tfx_pipeline.importers.sample import SampleSize

KILLS = int(os.environ.get("MIM_KILLS", "5"))
CONFIG = (
    TINY_CONFIG.replace(
        "min_auc: 0.3, max_auc_drop: 0.2", "min_auc: 0.01, max_auc_drop: 0.9, ids_only_comparison: false"
    )
    + SPANS
)
SIZE = SampleSize(items=60, users=60, impressions=3_000, intents=100, days=5)


def start(folder: Path, root: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tfx_pipeline.cli", words[0], "--config", str(folder / "config.yaml")]
    command += ["--data", str(folder / "shop"), "--root", str(folder / root), *words[1:]]
    with (folder / f"{root}.log").open("a") as log:
        return subprocess.Popen(command, stderr=log, stdout=subprocess.PIPE, text=True, start_new_session=True)


def to_the_end(folder: Path, root: str, *words: str) -> tuple[str, float]:
    """What a command says, and how long it takes."""
    began, process = time.monotonic(), start(folder, root, *words)
    said = process.communicate()[0]
    assert process.returncode == 0, (folder / f"{root}.log").read_text()[-3_000:]
    return said, time.monotonic() - began


def killed(folder: Path, root: str, after: float, *words: str) -> bool:
    """Whether a command was still running after so many seconds; it is killed then, with all that it started."""
    process = start(folder, root, *words)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0, (folder / f"{root}.log").read_text()[-3_000:]
    return False


def releases_are_whole(root: Path) -> None:
    """The record of each release names models that are there, and `models.config` those of the newest."""
    found = ReleaseStore(root).list()
    for release in found:
        for model in release.models:
            assert (root / "models" / model / str(release.version) / "saved_model.pb").is_file()
    config = root / "models/models.config"
    if config.is_file():
        named = set(re.findall(r"versions: (\d+)", config.read_text()))
        assert len(named) == 1, "all models of one version"
        assert int(named.pop()) in {release.version for release in found}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], float]:
    """A shop of daily folders, an undisturbed backfill of its last two days, and how long it took."""
    folder = tmp_path_factory.mktemp("killed")
    dates = write_daily_shop(folder / "shop", SIZE)
    (folder / "config.yaml").write_text(f"{CONFIG}warm_start: true\n")
    said, seconds = to_the_end(folder, "calm", "backfill", "--from", dates[-2], "--to", dates[-1])
    assert [line.split()[0] for line in said.splitlines()] == dates[-2:]
    releases_are_whole(folder / "calm")
    return folder, dates, seconds


def released(folder: Path, root: str) -> list[str]:
    """The encoder of each release, the oldest first.  Rankers are not compared: HistoryGen writes its rows in an order
    that differs from process to process, so that equal data do not give equal weights."""
    return [one.encoder_version for one in reversed(ReleaseStore(folder / root).list())]


@pytest.mark.slow
def test_killed_runs_release_the_same_encoder(shop: tuple[Path, list[str], float]) -> None:
    """`MIM_KILLS` kills of a backfill of two days, the second of which starts from the release of the first."""
    folder, dates, seconds = shop
    chance = random.Random(int(os.environ.get("MIM_SEED", "0")))
    asked = ("backfill", "--from", dates[-2], "--to", dates[-1])
    kills = 0
    for _ in range(4 * KILLS):
        if kills == KILLS or not killed(folder, "shaken", chance.uniform(0.1, 0.4) * seconds, *asked):
            break
        kills += 1
        releases_are_whole(folder / "shaken")
    said, _ = to_the_end(folder, "shaken", *asked)
    assert kills > 0
    assert [line.split()[0] for line in said.splitlines()] == dates[-2:]
    releases_are_whole(folder / "shaken")
    assert len(released(folder, "calm")) == 2
    assert released(folder, "shaken") == released(folder, "calm")


@pytest.mark.slow
def test_a_backfill_is_its_nights(shop: tuple[Path, list[str], float]) -> None:
    """Each night by itself gives the same; a second backfill does nothing."""
    folder, dates, _ = shop
    for date in dates[-2:]:
        to_the_end(folder, "nightly", "run", "--set", f"data.spans.until={date}")
    assert released(folder, "nightly") == released(folder, "calm")
    said, _ = to_the_end(folder, "calm", "backfill", "--from", dates[-2], "--to", dates[-1])
    assert said.count("(done before)") == 2
    to_the_end(folder, "calm", "run", "--set", f"data.spans.until={dates[-1]}")
    assert released(folder, "nightly") == released(folder, "calm"), "the same run again trains nothing on"
