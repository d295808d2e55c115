"""Training of a ranker with more and more users and items: rows a second, and memory.

mim bench tables                  4,000, 100,000 and a million of each
mim bench tables --large          and ten million users with a million items

The ranker of the default settings, with content embeddings of 64 in int8, compiled by XLA; generated rows with a long
tail of users and items.  Each size trains in a process of its own, in turns; a ratio is formed within a turn, and
figures are medians of the turns.  `dense` updates every row of the id tables in every step.

Memory is the peak of the process from before the model is made on, less that of the smallest size, which is what
TensorFlow and the batches take.  It is held against the bytes of the id tables and the item table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import PROJECT, publish

SIZES, LARGE = ((4_000, 4_000), (100_000, 100_000), (1_000_000, 1_000_000)), (10_000_000, 1_000_000)
BATCH, LENGTH, WIDTH, BATCHES, STEPS = 1_024, 50, 64, 60, 20
TARGET, LARGE_TARGET, MEMORY_TARGET = 0.7, 0.5, 2.5


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--update", default="rowwise_adagrad", choices=("rowwise_adagrad", "lazy_adam"))
    parser.add_argument("--ids", action="store_true", help="A ranker of ids alone.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help=f"Of {BATCHES} steps, in each turn.")
    # USERS ITEMS UPDATE: measures one size and prints it.
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        users, items, update = arguments.one
        print(json.dumps(trained(int(users), int(items), update, arguments.ids, arguments.epochs)))
        return
    update, smallest, largest = arguments.update, SIZES[0], SIZES[-1]
    measured = [(*size, update) for size in (*SIZES, *[LARGE] * arguments.large)]
    measured += [(*smallest, "dense"), (*largest, "dense")]
    turns: list[dict[str, dict[str, float]]] = []
    for _ in range(arguments.turns):
        turns.append({})
        for one in measured:
            turns[-1][_name(*one)] = found = _in_a_process(one, arguments)
            print(f"{_name(*one):42s} {found['rows_per_second']:,.0f} rows/s", file=sys.stderr, flush=True)
    figures = {_name(*one): _figures(turns, _name(*one), _name(*smallest, update)) for one in measured}
    million, huge = figures[_name(*largest, update)], figures.get(_name(*LARGE, update))
    met = million["ratio"] >= TARGET and million["memory"] <= MEMORY_TARGET
    if huge is not None:
        met = met and huge["ratio"] >= LARGE_TARGET and huge["memory"] <= MEMORY_TARGET
    details = {"update": update, "ids_alone": arguments.ids, "batch": BATCH, "history": LENGTH, "figures": figures}
    details |= {"targets": {"ratio_large": LARGE_TARGET, "memory": MEMORY_TARGET}, "turns": turns}
    name = "_".join(["tables", *["ids"] * arguments.ids, *[update] * (update == "lazy_adam")])
    publish(name, million["ratio"], "x the rows/s with 4,000", TARGET, details, met=met)


def _name(users: int, items: int, update: str) -> str:
    return f"{users:,} users, {items:,} items, {update}"


def _in_a_process(one: tuple[int, int, str], arguments: argparse.Namespace) -> dict[str, float]:
    words = ["--one", *map(str, one), "--epochs", str(arguments.epochs), *["--ids"] * arguments.ids]
    command = [sys.executable, "-m", "benchmarks.tables", *words]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT, env=settings)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _figures(turns: list[dict[str, dict[str, float]]], name: str, smallest: str) -> dict[str, Any]:
    """Medians of the turns; `ratio` and `memory` are relative to the smallest size and to the bytes of the tables."""

    def middle(what: str) -> float:
        return median(turn[name][what] for turn in turns)

    grown = [turn[name]["peak_bytes"] - turn[smallest]["peak_bytes"] for turn in turns]
    tables = middle("table_bytes") - turns[0][smallest]["table_bytes"]
    return {
        "rows_per_second": round(middle("rows_per_second")),
        "ratio": round(median(t[name]["rows_per_second"] / t[smallest]["rows_per_second"] for t in turns), 3),
        "table_mib": round(middle("table_bytes") / 2**20, 1),
        "optimizer_mib": round(middle("optimizer_bytes") / 2**20, 1),
        "memory": round(median(grown) / tables, 2) if tables else None,
    }


def trained(users: int, items: int, update: str, ids_alone: bool, epochs: int) -> dict[str, float]:
    """Rows a second of the median group of steps, and bytes: of the tables, of the optimizer, and at the peak."""
    import keras
    import numpy as np

    from mim_keras import ItemTableData, VocabularySizes, make_ranker
    from mim_keras.config import CiubmConfig, from_mapping
    from mim_keras.training.ranking_dataset import ranking_dataset
    from mim_keras.training.run_training import TrainingRun, run_training
    from mim_keras.training.train_ranker import compile_ranker

    training = {"batch_size": BATCH, "jit_compile": True, "steps_per_execution": STEPS}
    config = from_mapping(CiubmConfig, {"id_embedding_update": update, "training": training})
    config = config.without_content() if ids_alone else config
    rng, rows = np.random.default_rng(0), BATCH * BATCHES
    history = (1 + items * rng.random((rows, LENGTH)) ** 2).astype(np.int32)
    lengths = np.minimum(LENGTH, rng.random(rows) ** 0.5 * 70)
    history[np.arange(LENGTH)[None, :] >= lengths[:, None]] = 0
    inputs = {
        "item_row": (1 + items * rng.random(rows) ** 2).astype(np.int32),
        "user_index": (users * rng.random(rows) ** 1.5).astype(np.int32),
        "history_rows": history,
        "history_ages": (10.0 ** (7.5 * rng.random((rows, LENGTH)))).astype(np.int32),
    }
    vectors = rng.integers(-40, 41, (items, WIDTH), np.int8)
    data = ItemTableData.from_items(vectors, np.ones(items, bool), [()] * items, np.arange(1, items + 1))
    del vectors
    train = ranking_dataset(inputs, (rng.random(rows) < 0.5).astype(np.float32), BATCH, 7, config.id_dropout, data)
    moments: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: moments.append(time.monotonic()))
    before = _start_peak()
    model = make_ranker(config, VocabularySizes(users), data)
    compile_ranker(model, train.steps)
    run_training(model, train, TrainingRun("tables", epochs, callbacks=[clock]))
    groups = [end - begin for begin, end in pairwise(moments)][1:]  # the first groups compile
    tables = [one for name in ("item", "user") for one in model.vocabulary_tables()[name]]
    return {
        "rows_per_second": BATCH * STEPS / median(groups),
        "table_bytes": sum(_bytes(one) for one in (*tables, *model.item_table.variables)),
        "optimizer_bytes": sum(_bytes(one) for one in model.optimizer.variables),
        "peak_bytes": _peak() - before,
    }


def _bytes(variable: Any) -> int:
    size: int = variable.value.dtype.size * int(variable.shape.num_elements())
    return size


def _start_peak() -> int:
    """Resident bytes, from which the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most resident bytes of this process so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
