"""Training the ranker: whole runs and warm steps, against PyTorch models of FuxiCTR's published layers.

    make peer && mim bench train
    mim bench train --baseline DIR   # and against another checkout of the project, which has this benchmark

The same generated rows for all: 50 clicks at most, batches of 1,024.  A whole run is reading the files, compilation,
and eight epochs of warm steps, which are timed for `--seconds`.  Imports, validation and saving count on neither side.

    ciubm  every interest, ids of 16, vectors of 128 in int8; against the peer's DIN
    din    ids alone, the activation unit one layer of 64 with PReLU on both sides
    dcn    ids alone, the mean of the history, three cross layers on both sides; ours of rank 32
    ml1m   the rankers of configs/ml1m.yaml, vectors of 128 + 384 in float16; against a DCN with text of 384 numbers

din and dcn have the peers' hidden layers.  Ours read TFRecords; the peers read arrays, and get their best (see
`peer_models.speed`).  PyTorch keeps what it compiled from turn to turn, as it does by default, so that the first turn
alone has its full compilation.  `--streamed` adds ours with the files read anew in each epoch, as it is beyond
`ciubm.max_rows_in_memory`.

The models take turns.  Ratios are formed within a turn, and all figures are medians of the turns.  Run it on an idle
machine: PyTorch's threads wait for one another in busy loops, and a busy neighbour makes the peers ten times slower.
`cores_of_others` tells how many cores other programs used in each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.report import PROJECT, commit, publish
from benchmarks.training_run import BATCH, EPOCHS, TrainingRun

PEER = Path(sys.prefix) / "peer/bin/python"
PEERS = {"ciubm": "peer din", "din": "peer din", "dcn": "peer dcn", "ml1m": "peer dcn text"}  # of ours
ITEMS, USERS, GENRES, ITEM_GENRES, LENGTH, TEXT_WIDTH, FILES = 3_883, 6_040, 18, 4, 50, 384, 8
Turn = dict[str, TrainingRun]  # by model


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    arguments = _arguments(words)
    if arguments.one:
        from benchmarks.our_models import trained

        name, folder = arguments.one
        print(json.dumps(asdict(trained(name, Path(folder), arguments.seconds))))
        return
    if not PEER.exists():
        sys.exit(f"mim bench train needs PyTorch and FuxiCTR in {PEER.parent.parent}; run `make peer` (about 5 GB).")
    baseline = arguments.baseline
    if baseline and not (baseline / "benchmarks/our_models.py").is_file():
        sys.exit(f"--baseline must be a checkout with benchmarks/our_models.py; received {baseline}.")
    turns: list[Turn] = []
    others: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), arguments.rows)
        for _ in range(arguments.turns):
            turns.append({})
            begun, before = time.monotonic(), _cpu_of_others()
            for name in _models(baseline is not None, arguments.streamed):
                turns[-1][name] = run = _measured(name, folder, arguments.seconds, baseline)
                text = f"whole {run.whole:6.1f} s  compilation {run.compilation:5.1f} s  step {1000 * run.step:6.2f} ms"
                print(f"{name:16s} {text}", file=sys.stderr, flush=True)
            others.append(round(max(0.0, _cpu_of_others() - before) / (time.monotonic() - begun), 2))
            print(f"other programs used {others[-1]:.2f} cores in this turn", file=sys.stderr, flush=True)
    details = {"rows": arguments.rows, "epochs": EPOCHS, "seconds": arguments.seconds, "cores_of_others": others}
    details |= figures(turns)
    details["baseline"] = commit(baseline) if baseline else None
    publish("train", details["times_as_fast"]["ciubm to peer din"]["whole"], "x the peer's DIN", None, details)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=700_000, help="As MovieLens 1M trains on.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="Of each model's warm steps in each turn.")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="Another checkout, measured in the same turns.")
    parser.add_argument("--streamed", action="store_true")
    # Trains one of ours on the rows in a folder and prints the `TrainingRun`; other commits are measured through it.
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _models(baseline: bool, streamed: bool) -> list[str]:
    """Each of ours with what it is held against behind it."""
    names: list[str] = []
    for ours, peer in PEERS.items():
        more = [f"{ours} streamed"] * streamed + [f"baseline {ours}"] * baseline
        names += [name for name in (ours, *more, peer) if name not in names]
    return [*names, "peer din dice"]


def _measured(name: str, folder: str, seconds: float, baseline: Path | None) -> TrainingRun:
    """What a process of its own measures."""
    side, _, model = name.partition(" ")
    if side == "peer":
        command = [str(PEER), "-m", "benchmarks.peer_models", model, folder, str(seconds)]
    else:
        ours = model if side == "baseline" else name
        command = [sys.executable, "-m", "benchmarks.train", "--one", ours, folder, "--seconds", str(seconds)]
    where = baseline if side == "baseline" else PROJECT  # whose packages `-m` finds first
    settings = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=where, env=settings)
    return TrainingRun(**json.loads(done.stdout.splitlines()[-1]))


def _cpu_of_others() -> float:
    """Seconds of CPU that all programs have used but those this one started and waited for."""
    times, own = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, kind, 0.0) for kind in kinds) - own.ru_utime - own.ru_stime


def figures(turns: list[Turn]) -> dict[str, Any]:
    """Ratios and medians of the turns, and what was measured in each of them."""
    models = turns[0]
    by_model = {name: [_summary(turn[name]) for turn in turns] for name in models}
    compared = {f"{ours} to {peer}": ratio(turns, peer, ours) for ours, peer in PEERS.items()}
    older = {ours: ratio(turns, ours, f"baseline {ours}") for ours in PEERS if f"baseline {ours}" in models}
    return {
        "times_as_fast": compared,
        "time_of_baseline": older,
        "medians": {
            name: {what: median(run[what] for run in runs) for what in runs[0]} for name, runs in by_model.items()
        },
        "turns": by_model,
    }


def ratio(turns: list[Turn], first: str, second: str) -> dict[str, float]:
    """The first model's time by the second's in the same turn, of a warm step and of a whole run: medians."""
    pairs = [(turn[first], turn[second]) for turn in turns]
    return {
        "step": round(median(one.step / other.step for one, other in pairs), 3),
        "whole": round(median(one.whole / other.whole for one, other in pairs), 3),
    }


def _summary(run: TrainingRun) -> dict[str, float]:
    return {
        "whole_seconds": round(run.whole, 2),
        "reading_seconds": round(run.reading, 2),
        "compilation_seconds": round(run.compilation, 2),
        "step_ms": round(1000 * run.step, 3),
        "rows_per_second": round(EPOCHS * run.steps * BATCH / run.whole),
        "warm_rows_per_second": round(BATCH / run.step),
    }


def write_rows(folder: Path, rows: int) -> None:
    """Transformed ranking examples, as TFRecords (`rows-*.gz`) and as arrays (`rows.npz`), and a vector of each item's
    text (`text.npy`, float32 [items + 1, ·] L2-normalised; that of padding is zero).

    Items and users have long tails; lengths of histories are those of a log in which most users are well known.
    """
    import gzip

    import pyarrow as pa

    from components.examples import to_examples
    from components.records import frame

    rng = np.random.default_rng(0)
    ids = np.array([str(n).encode() for n in range(1, ITEMS + 1)], object)
    lengths = np.minimum(LENGTH, (rng.random(rows) ** 0.5 * 70).astype(np.int64))
    item = (ITEMS * rng.random(rows) ** 2).astype(np.int64)
    user = (USERS * rng.random(rows) ** 1.5).astype(np.int64)
    clicked = (rng.random(rows) < 0.55).astype(np.int64)
    clicks = (ITEMS * rng.random(lengths.sum()) ** 2).astype(np.int64)
    ages = (10.0 ** (7.5 * rng.random(len(clicks)))).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    history = np.zeros((rows, LENGTH), np.int32)
    history[np.arange(LENGTH)[None, :] < lengths[:, None]] = clicks + 1
    genres_of = np.sort(rng.integers(0, GENRES + 1, (ITEMS + 1, ITEM_GENRES)), axis=1)  # 0: none
    arrays = {"item": item + 1, "user": user, "history": history, "clicked": clicked}
    arrays |= {"genre": genres_of[item + 1], "genres_of": genres_of}
    np.savez(folder / "rows.npz", allow_pickle=False, **arrays)  # type: ignore[arg-type]
    text = rng.standard_normal((ITEMS + 1, TEXT_WIDTH))
    text[0] = 0
    np.save(folder / "text.npy", (text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1)).astype(np.float32))
    for place, own in enumerate(np.array_split(np.arange(rows), FILES)):
        first, last = offsets[own[0]], offsets[own[-1] + 1]
        inside = pa.array((offsets[own[0] : own[-1] + 2] - first).astype(np.int32))
        columns = {
            "item_id": pa.array(ids[item[own]], pa.binary()),
            "history_item_ids": pa.ListArray.from_arrays(inside, pa.array(ids[clicks[first:last]], pa.binary())),
            "history_ages": pa.ListArray.from_arrays(inside, pa.array(ages[first:last])),
            "timestamp": pa.array(np.full(len(own), 1_700_000_000)),
            "user_index": pa.array(user[own]),
            "clicked": pa.array(clicked[own]),
        }
        with gzip.open(folder / f"rows-{place}.gz", "wb", 1) as file:
            file.write(frame(to_examples(columns)))


if __name__ == "__main__":
    main()
