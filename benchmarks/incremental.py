"""The run of the next day from the last release, against a full run on the same window: time and AUC.

    mim bench incremental

The sample shop, delivered day by day.  For each seed, of the training: a full run up to the day before the last whole
one; then, up to the next day, a run from its release (`warm_start`, `--epochs` of the ranker) and a full run in a new
root.  Both read the same window and are judged on the same rows.  The three runs of a seed follow one another, each in
a process of its own, and the time is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.report import PROJECT, publish

SHARE = 0.35  # of the time of a full run
STAGES = ("pretrain", "csft", "ciubm")


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", default="sample")
    parser.add_argument("--impressions", type=int, default=120_000)
    parser.add_argument("--epochs", type=int, default=1, help="of the ranker, in the run from the last release")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    arguments = parser.parse_args(words)
    from benchmarks.daily_shop import SPANS, write_daily_shop
    from tfx_pipeline.importers.sample import SampleSize

    turns = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = SampleSize(impressions=arguments.impressions)
        dates = write_daily_shop(folder / "shop", size)
        (folder / "config.yaml").write_text(f"extends: {arguments.config}\n{SPANS}")
        for seed in range(1, arguments.seeds + 1):
            sets = [*arguments.sets, *(f"stages.{stage}.training.seed={seed}" for stage in STAGES)]
            turns.append(compare(folder, dates[-3], dates[-2], seed, sets, arguments.epochs))
            print(seed, json.dumps(turns[-1]), file=sys.stderr, flush=True)
    share = mean(turn["incremental"]["seconds"] / turn["full"]["seconds"] for turn in turns)
    differences = [round(turn["incremental"]["auc"] - turn["full"]["auc"], 4) for turn in turns]
    details = {
        "days": len(dates) - 1,
        "impressions": arguments.impressions,
        "epochs": arguments.epochs,
        "set": arguments.sets,
        "auc_difference": round(mean(differences), 4),
        "auc_differences": differences,
        "seeds": turns,
    }
    publish("incremental", round(share, 3), "of a full run's time", SHARE, details, less_is_better=True)


def compare(folder: Path, day: str, next_day: str, seed: int, sets: list[str], epochs: int) -> dict[str, Any]:
    """Seconds and AUC of the three runs of a seed."""
    root = folder / f"root-{seed}"
    warm = ["warm_start=true", f"stages.ciubm.training.epochs={epochs}"]
    return {
        "day before": _run(folder, root, day, [*sets, "evaluation.must_beat_baselines=false"]),
        "incremental": _run(folder, root, next_day, [*sets, *warm]),
        "full": _run(folder, folder / f"full-{seed}", next_day, sets),
    }


def _run(folder: Path, root: Path, until: str, sets: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tfx_pipeline.cli", "run", "--config", str(folder / "config.yaml")]
    command += ["--data", str(folder / "shop"), "--root", str(root)]
    command += [word for one in [*sets, f"data.spans.until={until}"] for word in ("--set", one)]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"a run ended with {done.returncode}: {done.stderr[-2_000:]}")
    from tfx_pipeline.runners.newest import newest_metrics

    metrics = newest_metrics(root)
    return {
        "seconds": round(seconds, 1),
        "auc": round(metrics["auc"], 4),
        "cold_auc": metrics["slices"].get("cold", {}).get("auc"),
        "released": metrics["released"],
        "steps": _steps(done.stderr),
    }


def _steps(progress: str) -> dict[str, float]:
    """Seconds of each step, from what a run says."""
    found, name = {}, ""
    for line in progress.splitlines():
        if line.startswith("[") and "] " in line:
            name = line.partition("] ")[2].strip()
        elif name and line.strip().removesuffix(", reused").endswith(" s"):
            found[name] = float(line.strip().split()[0])
            name = ""
    return found


if __name__ == "__main__":
    main()
