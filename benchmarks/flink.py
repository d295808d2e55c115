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
    parser.add_argument("--heap", default="4g", help="Of Flink's Java process.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.parallelism, arguments.heap)))
        return
    with tempfile.TemporaryDirectory() as name:
        from benchmarks.click_log import write_click_log

        write_click_log(Path(name) / "data", arguments.impressions, arguments.hottest)
        command = [sys.executable, "-m", "benchmarks.flink", "--one", name, "--heap", arguments.heap]
        command += ["--parallelism", str(arguments.parallelism)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ).stdout
    found = json.loads(told.splitlines()[-1])
    details = {"hottest_user": arguments.hottest, "parallelism": arguments.parallelism, "heap": arguments.heap, **found}
    whole = found["records_written"] == found["impressions"] == arguments.impressions
    publish(
        "flink", found["peak_gib"], "GiB, Flink and workers together", MEMORY_GIB, details,
        met=whole and found["peak_gib"] <= MEMORY_GIB,
    )  # fmt: skip


def one(folder: Path, parallelism: int, heap: str) -> dict[str, Any]:
    """ImpressionGen in process, then HistoryGen on Flink, here."""
    from benchmarks.click_log import impressions_of, run_component
    from benchmarks.flink_server import running_flink
    from components.contract.counts import ROWS_OUT, read_counts
    from components.history_gen.executor import Executor as History
    from components.metrics import PROPERTY

    _, impressions, common, before = impressions_of(folder / "data", folder / "out")
    rows = read_counts(f"{impressions.uri}/counts.json")[ROWS_OUT]
    properties = {**common, "history_length": 50, "cold_max_clicks": 5, "user_features": "[]"}
    output = ("examples", folder / "out/examples")
    memory = PeakMemory()
    memory.start()
    with running_flink(parallelism, heap) as (flags, _):
        made, seconds = run_component(History, {"impressions": impressions}, output, properties, flags)
    counted = json.loads(made.get_string_custom_property(PROPERTY))
    return {
        "impressions": rows,
        "records_written": counted["records written"],
        "impression_gen_seconds_in_process": round(before, 1),
        "seconds": round(seconds, 1),
        "history_per_second": round(rows / seconds),
        "peak_gib": round(memory.stop() / 2**30, 2),
    }


if __name__ == "__main__":
    main()
