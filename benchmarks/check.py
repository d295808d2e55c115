"""`mim check` on a log of a million rows, and on a folder that holds nothing: seconds and memory of the whole command.

    mim bench check

The tables are generated: 100,000 items without pictures, a million impressions, as Parquet and as gzipped CSV.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.report import PROJECT, publish

ITEMS, ROWS, TURNS, LIMIT = 100_000, 1_000_000, 5, 10.0


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args(words)
    details: dict[str, Any] = {"rows": arguments.rows, "items": arguments.items}
    with tempfile.TemporaryDirectory() as folder:
        data = {kind: Path(folder) / kind for kind in ("parquet", "csv", "nothing")}
        write_tables(data["parquet"], data["csv"], arguments.items, arguments.rows)
        data["nothing"].mkdir()
        for kind, path in data.items():
            runs = [checked(path, 1 if kind == "nothing" else 0) for _ in range(arguments.turns)]
            details[kind] = {"seconds": round(median(runs), 2)}
    details["peak_gib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
    slowest = max(details[kind]["seconds"] for kind in ("parquet", "csv"))
    met = slowest <= LIMIT and details["nothing"]["seconds"] <= 3 and details["peak_gib"] <= 1
    publish("check", slowest, "s", LIMIT, details, met=met, less_is_better=True)


def checked(folder: Path, expected: int) -> float:
    """Seconds of the command."""
    begun = time.monotonic()
    words = [sys.executable, "-m", "tfx_pipeline.cli", "check", "--data", str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    if done.returncode != expected:
        raise RuntimeError(f"mim check ended with {done.returncode}: {done.stdout}")
    return time.monotonic() - begun


def write_tables(as_parquet: Path, as_csv: Path, items: int, rows: int) -> None:
    """The same tables in both forms."""
    rng = np.random.default_rng(0)
    ids = np.array([f"item-{n}" for n in range(items)])
    tables = {
        "items": pa.table({"item_id": ids, "title": [f"a title of item {n}" for n in range(items)]}),
        "impressions": pa.table(
            {
                "user_id": np.char.add("user-", rng.integers(0, rows // 20, rows).astype(str)),
                "item_id": ids[rng.integers(0, items, rows)],
                "timestamp": np.sort(rng.integers(1_700_000_000, 1_705_000_000, rows)),
                "clicked": (rng.random(rows) < 0.1).astype(np.int64),
            }
        ),
    }
    for folder in (as_parquet, as_csv):
        folder.mkdir()
    for name, table in tables.items():
        pq.write_table(table, as_parquet / f"{name}.parquet")
        with gzip.open(as_csv / f"{name}.csv.gz", "wb", compresslevel=1) as file:
            pyarrow.csv.write_csv(table, file)


if __name__ == "__main__":
    main()
