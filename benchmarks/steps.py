"""A warm training step of our rankers, of this checkout and of another one, in slots of seconds that alternate.

    python -m benchmarks.steps --baseline DIR

Both train at the same time, but never together: one is stopped while the other runs for a few seconds.  A machine that
other programs make slower or faster from minute to minute then changes both alike, which whole runs in turns (`mim
bench train`) do not survive.  Each pair of slots gives a ratio of the median steps in it; the figure is the median of
the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.report import PROJECT, commit, publish
from benchmarks.train import PEERS, write_rows

SLOT, PAIRS, WARM_STEPS, ROWS = 3.0, 30, 200, 200_000


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, required=True, metavar="DIR", help="Another checkout.")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="Of slots, for each ranker.")
    parser.add_argument("--rankers", nargs="+", default=list(PEERS))
    arguments = parser.parse_args(words)
    details: dict[str, Any] = {"baseline": commit(arguments.baseline), "rows": ROWS, "slot_seconds": SLOT}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), ROWS)
        for name in arguments.rankers:
            details[name] = compared(name, folder, arguments.baseline, arguments.pairs)
            print(f"{name:8s} {details[name]}", file=sys.stderr, flush=True)
    worst = max(details[name]["ratio"] for name in arguments.rankers)
    publish("steps", worst, "x the baseline's step", 1.05, details, less_is_better=True)


class Training:
    """A ranker that trains in a process of its own, and can be stopped.

    Args:
        name: Of the ranker, see `benchmarks.train`.
        folder: Of the rows.
        checkout: Whose code it runs.
    """

    def __init__(self, name: str, folder: str, checkout: Path) -> None:
        command = [sys.executable, str(PROJECT / "benchmarks/steps_child.py"), name, folder]
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=checkout, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self._seen: list[tuple[float, int]] = []  # time, steps until then
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("step "):
                _, moment, steps = line.split()
                self._seen.append((float(moment), int(steps)))

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def warm_up(self) -> None:
        """Waits for the warm state and stops there."""
        while not self._seen or self._seen[-1][1] < WARM_STEPS:
            if self._process.poll() is not None:
                raise RuntimeError(f"the training ended with {self._process.returncode}")
            time.sleep(0.2)
        self._signal(signal.SIGSTOP)

    def slot(self, seconds: float) -> float | None:
        """The median step of a slot; None where it saw none from end to end."""
        first = len(self._seen)
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        self._signal(signal.SIGSTOP)
        time.sleep(0.02)
        seen = self._seen[first:]
        steps = [(t2 - t1) / (n2 - n1) for (t1, n1), (t2, n2) in itertools.pairwise(seen) if n2 > n1]
        return median(steps) if steps else None

    def end(self) -> None:
        """Kills the process."""
        self._signal(signal.SIGKILL)
        self._process.wait()


def compared(name: str, folder: str, baseline: Path, pairs: int) -> dict[str, float]:
    """Ratio of the steps of both checkouts, its quartiles, and the median steps in milliseconds."""
    trainings: list[Training] = []
    try:
        for checkout in (PROJECT, baseline):
            trainings.append(Training(name, folder, checkout))
            trainings[-1].warm_up()
        found: list[tuple[float, float]] = []
        for number in range(pairs):
            first = number % 2  # which of the two begins changes
            slots = [trainings[first].slot(SLOT), trainings[1 - first].slot(SLOT)]
            ours, theirs = slots if first == 0 else slots[::-1]
            if ours and theirs:
                found.append((ours, theirs))
    finally:
        for training in trainings:
            training.end()
    ratios = [ours / theirs for ours, theirs in found]
    low, _, high = quantiles(ratios, n=4)
    return {
        "ratio": round(median(ratios), 3),
        "first_quartile": round(low, 3),
        "third_quartile": round(high, 3),
        "step_ms": round(1000 * median(ours for ours, _ in found), 2),
        "baseline_step_ms": round(1000 * median(theirs for _, theirs in found), 2),
        "pairs": len(found),
    }


if __name__ == "__main__":
    main()
