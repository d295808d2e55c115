"""Ten million impressions, a million of them one user's, through HistoryGen on Apache Flink: rows a second and memory.

    mim bench flink

Flink's embedded cluster is one Java process, Beam's workers are threads of one Python process; memory is that of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import PeakMemory, publish

MEMORY_GIB = 8.0


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--hottest", type=int, default=1_000_000, help="Rows of one single user.")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--heap", default="3g", help="Of Flink's Java process.")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.step:
        name, folder = arguments.step
        run = {"impressions": impressions_in_process, "history": history_on_flink}[name]
        print(json.dumps(run(Path(folder), arguments.parallelism, arguments.heap)))
        return
    engine: dict[str, Any] = {"parallelism": arguments.parallelism, "heap": arguments.heap}
    details: dict[str, Any] = {"hottest_user": arguments.hottest, **engine}
    with tempfile.TemporaryDirectory() as name:
        from benchmarks.click_log import write_click_log

        write_click_log(Path(name) / "data", arguments.impressions, arguments.hottest)
        for step in ("impressions", "history"):  # each in a process of its own, with memory of its own
            command = [sys.executable, "-m", "benchmarks.flink", "--step", step, name]
            command += [f"--{key}={value}" for key, value in engine.items()]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ).stdout
            details |= json.loads(output.splitlines()[-1])
    whole = details["records_written"] == arguments.impressions
    publish(
        "flink", details["peak_gib"], "GiB, Flink and workers together", MEMORY_GIB, details,
        met=whole and details["peak_gib"] <= MEMORY_GIB,
    )  # fmt: skip


def impressions_in_process(folder: Path, parallelism: int, heap: str) -> dict[str, Any]:
    """What HistoryGen reads."""
    from benchmarks.click_log import impressions_of

    _, _, _, seconds = impressions_of(folder / "data", folder / "out")
    return {"impression_gen_seconds_in_process": round(seconds, 1)}


def history_on_flink(folder: Path, parallelism: int, heap: str) -> dict[str, Any]:
    """HistoryGen, its workers here, and what it took."""
    from tfx.types import standard_artifacts

    from benchmarks.click_log import run_component
    from benchmarks.flink_server import running_flink
    from components.contract.schema import Schema
    from components.examples import SPLITS, declare_splits
    from components.history_gen.executor import Executor
    from components.metrics import PROPERTY

    impressions = standard_artifacts.Examples()
    impressions.uri = str(folder / "out/impressions")
    declare_splits(impressions, SPLITS)
    common = {
        "data": str(folder / "data"),
        "rejected_folder": str(folder / "rejected"),
        "max_rejected_fraction": 0.0,
        "schema": Schema().to_json(),
        "spans": "{}",
    }
    properties = {**common, "history_length": 50, "cold_max_clicks": 5, "new_items": 0, "statistics_spec": ""}
    memory = PeakMemory()
    memory.start()
    with running_flink(parallelism, heap) as (flags, _):
        outputs = {"examples": folder / "out/examples", "statistics_table": folder / "out/statistics_table"}
        made, seconds = run_component(Executor, {"impressions": impressions}, outputs, properties, flags)
    written = json.loads(made.get_string_custom_property(PROPERTY))["records written"]
    return {
        "records_written": written,
        "seconds": round(seconds, 1),
        "history_per_second": round(written / seconds),
        "peak_gib": round(memory.stop() / 2**30, 2),
    }


if __name__ == "__main__":
    main()
