"""The arithmetic of the training benchmark, and that its rankers train."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import report, train
from benchmarks.training_run import Stopwatch, TrainingRun


def run(step: float, reading: float = 0.0, compilation: float = 0.0) -> TrainingRun:
    return TrainingRun(reading, compilation, step, steps=10)


def test_a_whole_run_is_reading_compilation_and_eight_epochs() -> None:
    assert run(step=0.5, reading=2.0, compilation=3.0).whole == 2 + 3 + 8 * 10 * 0.5


def test_compilation_is_the_time_to_the_warm_state_without_its_steps() -> None:
    times = iter([100.0, 102.0, 109.0, 110.0, 112.0, 114.0])
    watch = Stopwatch(3.0, clock=lambda: next(times))
    watch.read()
    # warm from 40 steps on; the 40 after them take 4 s
    assert [watch.enough(steps) for steps in (20, 40, 60, 80)] == [False, False, False, True]
    found = {"reading": 2.0, "compilation": 10 - 2 - 40 * 0.1, "step": 0.1, "steps": 683}
    assert asdict(watch.run(683)) == pytest.approx(found)


def test_ratios_are_of_one_turn_and_then_the_median() -> None:
    steps = [(1, 5), (2, 8), (4, 6)]  # ours, the peer's
    turns = [{"ours": run(ours), "peer": run(peer, compilation=80.0)} for ours, peer in steps]
    # 5, 4 and 1.5; of the medians it would be 3, of the best 5
    assert train.ratio(turns, "peer", "ours") == {"step": 4.0, "whole": (640 + 80) / 160}
    assert train.ratio(turns, "ours", "peer")["step"] == 0.25


def test_the_result_holds_ratios_medians_and_every_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(name: str, folder: str, seconds: float, baseline: Path | None) -> TrainingRun:
        asked.append(name)
        slow = {"peer": 3.0, "baseline": 2.0}.get(name.split()[0], 1.0)
        return run(slow * (1 + 0.1 * (len(asked) % 2)), reading=8.0 * slow)

    (tmp_path / "old/benchmarks").mkdir(parents=True)
    (tmp_path / "old/benchmarks/our_models.py").touch()
    for name, value in {"_measured": measured, "write_rows": lambda *_: None, "PEER": tmp_path}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    train.main(["--turns", "3", "--baseline", str(tmp_path / "old")])
    ours = [name for peered in train.PEERS for name in (peered, f"baseline {peered}")]
    assert set(asked[: len(asked) // 3]) == {*ours, "peer din", "peer dcn", "peer dcn text", "peer din dice"}
    found = json.loads((tmp_path / "train.json").read_text())
    details = found["details"]
    assert (found["target"], found["met"]) == (None, None)
    assert found["value"] == details["times_as_fast"]["ciubm to peer din"]["whole"]
    assert set(details["times_as_fast"]) == {f"{name} to {peer}" for name, peer in train.PEERS.items()}
    assert set(details["time_of_baseline"]) == set(train.PEERS)
    assert details["time_of_baseline"]["ciubm"]["step"] == pytest.approx(0.5, rel=0.11)
    assert details["baseline"] is None  # not a checkout
    assert [told["reading_seconds"] for told in details["turns"]["peer dcn"]] == [24.0] * 3
    assert len(details["cores_of_others"]) == 3
    medians = details["medians"]["dcn"]
    assert medians["rows_per_second"] == pytest.approx(8 * 10 * 1024 / medians["whole_seconds"], abs=1)


def test_a_baseline_must_have_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PEER", tmp_path)
    with pytest.raises(SystemExit, match="checkout with benchmarks/our_models.py; received"):
        train.main(["--baseline", str(tmp_path)])


@pytest.mark.parametrize("name", ["dcn", "ml1m"])
def test_one_ranker_is_measured_by_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    train.write_rows(tmp_path, 2_100)
    words = ["-m", "benchmarks.train", "--one", name, str(tmp_path), "--seconds", "0.1"]
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True, cwd=report.PROJECT)
    found = TrainingRun(**json.loads(done.stdout.splitlines()[-1]))
    assert found.steps == 2
    assert min(found.reading, found.step) > 0  # compilation is a difference, of no meaning in so short a run
