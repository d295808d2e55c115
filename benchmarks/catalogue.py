"""CatalogueGen and StatisticsGen over items with pictures of 20 kB: memory from 10 thousand items to 100 thousand.

    mim bench catalogue

Each size runs in a process of its own, in which Beam works in memory; every picture is another JPEG.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import components  # noqa: F401  before TensorFlow, as everywhere
from benchmarks.report import publish

GROWTH, SIDE, FILE_ROWS = 1.3, 224, 5_000
KINDS = ("catalogue", "statistics")


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(Path(arguments.one[0]), arguments.one[1])))
        return
    found = []
    for items in arguments.items:
        with tempfile.TemporaryDirectory() as name:
            size = write_catalogue(Path(name) / "data/items", items)
            figures = {"items": items, "picture_bytes": size}
            for kind in KINDS:
                command = [sys.executable, "-m", "benchmarks.catalogue", "--one", name, kind]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ).stdout
                figures |= json.loads(output.splitlines()[-1])
            found.append(figures)
    growth = {
        name: round(found[1][f"{name}_peak_gib"] / found[0][f"{name}_peak_gib"], 3)
        for name in ("catalogue", "statistics")
    }
    details = {"sizes": found, "growth": growth}
    publish(
        "catalogue", max(growth.values()), "peak memory at 100 k items, of 10 k", GROWTH, details, less_is_better=True
    )


def write_catalogue(folder: Path, items: int) -> int:
    """Parquet of items, each with a JPEG of its own; returns their mean size in bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIDE * 2, SIDE * 2, 3), np.uint8)
    folder.mkdir(parents=True)
    total = 0
    for first in range(0, items, FILE_ROWS):
        rows = []
        for number in range(first, min(items, first + FILE_ROWS)):
            x, y = rng.integers(0, SIDE, 2)
            buffer = io.BytesIO()
            Image.fromarray(noise[x : x + SIDE, y : y + SIDE]).save(buffer, "JPEG", quality=45)
            total += buffer.tell()
            title = f"item {number} of kind {number % 97}"
            rows.append(
                {"item_id": f"i{number}", "title": title, "category": f"c{number % 18}", "image": buffer.getvalue()}
            )
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{first:07d}.parquet")
    return total // items


def one(folder: Path, kind: str) -> dict[str, Any]:
    """One component on one size, here."""
    seconds = {"catalogue": catalogue, "statistics": statistics}[kind](folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {f"{kind}_seconds": round(seconds, 1), f"{kind}_peak_gib": round(peak, 3)}


def catalogue(folder: Path) -> float:
    """CatalogueGen; its seconds."""
    from benchmarks.click_log import run_component
    from components.catalogue_gen.executor import Executor

    common = {"data": str(folder / "data"), "rejected_folder": str(folder / "rejected"), "max_rejected_fraction": 0.0}
    from components.contract.schema import Schema

    common |= {"schema": Schema().to_json(), "spans": "{}"}
    seconds: float = run_component(Executor, {}, {"items": folder / "items"}, common)[1]
    return seconds


def statistics(folder: Path) -> float:
    """StatisticsGen on what CatalogueGen made, as the pipeline has it; its seconds."""
    import tensorflow_data_validation as tfdv
    from tfx.components.statistics_gen.executor import Executor
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    from components.engine import IN_PROCESS, beam_flags
    from components.examples import declare_splits
    from tfx_pipeline.pipeline import MONITORED_ITEM_FEATURES

    items, made = standard_artifacts.Examples(), standard_artifacts.ExampleStatistics()
    items.uri, made.uri = str(folder / "items"), str(folder / "statistics")
    declare_splits(items, ("train", "valid"))
    options = tfdv.StatsOptions(feature_allowlist=list(MONITORED_ITEM_FEATURES)).to_json()
    executor = Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam_flags(IN_PROCESS)))
    started = time.monotonic()
    executor.Do({"examples": [items]}, {"statistics": [made]}, {"stats_options_json": options, "exclude_splits": "[]"})
    return time.monotonic() - started


if __name__ == "__main__":
    main()
