"""Training the ranker: rows a second, TFRecords read and all, against a PyTorch DIN of FuxiCTR's published layers.

    make peer && mim bench train

The same generated rows for all: 50 clicks at most, ids of 16, content vectors of 128, batches of 1,024.  Ours read
TFRecords and keep them as numbers, as training does by default.  Their figure is of eight epochs from the files on:
the seconds of reading and comparing, measured whole, and eight times those of an epoch, measured over `--seconds` when
the model is compiled and warm.  FuxiCTR's loading of its own file counts in the same way.  "kept" leaves the reading
out; "streamed" reads the files anew each epoch, as it is beyond `ciubm.rows_in_memory`.  The models take turns,
so that a disturbance strikes all; each figure is the best of its turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish

TARGET, DIN_TARGET, CROSS_TARGET, INPUT_TARGET = 4.0, 2.5, 2.5, 150_000
PEER = Path(sys.prefix) / "peer/bin/python"
ITEMS, USERS, GENRES, ITEM_GENRES, LENGTH, WIDTH, BATCH = 3_883, 6_040, 18, 4, 50, 128, 1024
WARM_STEPS = 20
EPOCHS = 8  # of a training, the reading before it among them
# The default ranker, every interest on; the comparisons with the peers' hidden layers.
COMMON = {"training": {"batch_size": BATCH, "jit_compile": True, "steps_per_execution": 20}}
PEER_HIDDEN = [256, 128, 64]
OURS = ("ciubm", "din", "dcn", "ciubm streamed", "din streamed", "dcn streamed")
FILES = 8


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=700_000, help="As MovieLens 1M trains on.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="Of each model in each turn.")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(arguments.one[0], Path(arguments.one[1]), arguments.seconds)))
        return
    if not PEER.exists():
        sys.exit(f"mim bench train needs PyTorch and FuxiCTR in {PEER.parent.parent}; run `make peer` (about 5 GB).")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), arguments.rows)
        for _ in range(arguments.turns):
            for name in ("input", *OURS, "peer din", "peer dcn"):
                for what, speed in _told(name, folder, arguments.seconds).items():
                    found.setdefault(what, []).append(speed)
                    print(f"{what:14s} {speed:10,.0f} rows/s", file=sys.stderr, flush=True)
    best = {name: max(values) for name, values in found.items()}
    ratios = {
        "ciubm to peer din": best["ciubm"] / best["peer din"],
        "din to peer din": best["din"] / best["peer din"],
        "dcn to peer dcn": best["dcn"] / best["peer dcn"],
    }
    met = (
        ratios["ciubm to peer din"] >= TARGET
        and ratios["din to peer din"] >= DIN_TARGET
        and ratios["dcn to peer dcn"] >= CROSS_TARGET
        and best["input"] >= INPUT_TARGET
    )
    details: dict[str, Any] = {
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "targets": {"ciubm to peer din": TARGET, "din to peer din": DIN_TARGET, "dcn to peer dcn": CROSS_TARGET},
        "input_target": INPUT_TARGET,
        "rows_per_second": {name: [round(value) for value in values] for name, values in found.items()},
    }
    publish("train", round(ratios["ciubm to peer din"], 2), "x the peer's DIN", TARGET, details, met=met)


def _told(name: str, folder: str, seconds: float) -> dict[str, float]:
    """Rows a second, by name, that a process of its own measured: of `EPOCHS` epochs from the files on, and without the
    reading, where that came before the first of them; see `one`."""
    if name.startswith("peer"):
        script = Path(__file__).parent / "peer_models.py"
        command = [str(PEER), str(script), name.split()[1], f"{folder}/rows.npz", str(seconds)]
    else:
        command = [sys.executable, "-m", "benchmarks.train", "--one", name, folder, "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    told = json.loads(done.splitlines()[-1])
    speed = float(told["rows_per_second"])
    if "reading" not in told:
        return {name: speed}
    trained = EPOCHS * told["rows"]
    return {name: trained / (told["reading"] + trained / speed), f"{name} kept": speed}


def write_rows(folder: Path, rows: int) -> None:
    """Transformed ranking examples, as TFRecords (`rows-*.gz`) and as arrays (`rows.npz`).

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


def one(name: str, folder: Path, seconds: float) -> dict[str, float]:
    """`rows_per_second` of the input alone (`input`) or of training a model, here; where the rows were read before that
    and kept, also `rows` of an epoch, and `reading`, the seconds it took."""
    import keras
    import tensorflow as tf

    from mim_keras.ciubm import CiUBM, RankerShape
    from mim_keras.config import COMPARISONS, CiubmConfig, from_mapping
    from mim_keras.export import ItemRows
    from mim_keras.item_table import ItemColumns
    from mim_keras.training.fit import as_executed, make_ready
    from mim_keras.training.step_groups import steps_of
    from tfx_pipeline.run_fns.ranking_examples import RankingExamples

    kind, _, streamed = name.partition(" ")
    compared = {**COMPARISONS[kind], "hidden": PEER_HIDDEN} if kind in COMPARISONS else {}
    kept = {"rows_in_memory": 0} if streamed else {}
    config = from_mapping(CiubmConfig, {**COMMON, **compared, **kept})
    ids = np.arange(1, ITEMS + 1).astype(str)
    scalar, several = tf.io.FixedLenFeature, tf.io.VarLenFeature
    spec = {name: scalar([1], tf.int64) for name in ("user_index", "clicked")}
    spec |= {"item_id": scalar([1], tf.string), "history_ages": several(tf.int64)}
    spec |= {"history_item_ids": several(tf.string)}
    rows = ItemRows(ids, folder / "item_ids.txt")
    examples = RankingExamples([f"{folder}/rows-*.gz"], spec, rows, config)
    if name == "input":
        count, started = 0, 0.0
        for count, _ in enumerate(examples.streamed().dataset.repeat()):
            if count == WARM_STEPS:
                started = time.monotonic()
            if started and time.monotonic() - started > seconds:
                break
        return {"rows_per_second": (count - WARM_STEPS) * BATCH / (time.monotonic() - started)}
    rng = np.random.default_rng(1)
    vectors = rng.integers(-40, 41, (ITEMS, WIDTH)).astype(np.int8)
    genres = np.load(folder / "rows.npz")["genres_of"][1:]
    own = [[f"g{place}" for place in set(row) - {0}] for row in genres]
    columns = ItemColumns.assemble(vectors, np.ones(ITEMS, bool), own, np.arange(1, ITEMS + 1))
    begun = time.monotonic()
    batches = examples.for_training(columns)
    reading = time.monotonic() - begun
    keras.utils.set_random_seed(1)
    model = CiUBM(config, RankerShape(users=USERS), columns)
    make_ready(model, config.training, EPOCHS * batches.steps)
    dataset = as_executed(batches.dataset.repeat(), model)
    clock = _clock(seconds, steps_of(dataset))
    model.fit(dataset, steps_per_epoch=10**6, verbose=0, shuffle=False, callbacks=[clock])
    found = {"rows_per_second": float(clock.rows_per_second)}
    return found if streamed else {**found, "reading": reading, "rows": batches.steps * BATCH}


def _clock(seconds: float, together: int) -> Any:
    """A Keras callback that stops a training after some seconds; its `rows_per_second` count from when it is warm.  So
    many steps of ours are one to Keras."""
    import keras

    class Clock(keras.callbacks.Callback):
        started, first, rows_per_second = 0.0, 0, 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            now = time.monotonic()
            step = together * (batch + 1)
            if not self.started and step >= WARM_STEPS:
                self.started, self.first = now, step
            elif self.started and now - self.started > seconds:
                self.rows_per_second = (step - self.first) * BATCH / (now - self.started)
                self.model.stop_training = True

    return Clock()


if __name__ == "__main__":
    main()
