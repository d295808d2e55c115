"""Impressions a second through ImpressionGen and HistoryGen with statistics, Parquet in and TFRecords out; how time
and memory grow.

    mim bench history                  generated logs of a hundred thousand and a million impressions
    mim bench history --data FOLDER    a folder of the data contract

Each size runs in a process of its own, in which Beam works in memory; times leave out Python's imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import publish

TARGET, GROWTH, MEMORY_GIB = 40_000, 11.0, 3.0


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--data", type=Path, help="A folder of the data contract, instead of generated ones.")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(*map(Path, arguments.one))))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in [None] if arguments.data else arguments.impressions:
            data = arguments.data or Path(folder) / f"data-{rows}"
            if rows:
                from benchmarks.click_log import write_click_log

                write_click_log(data, rows)
            command = [sys.executable, "-m", "benchmarks.history", "--one", str(data), f"{folder}/out-{rows}"]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
    last = found[-1]
    details: dict[str, Any] = {"sizes": found, "memory_gib_target": MEMORY_GIB, "growth_target": GROWTH}
    met = last["history_per_second"] >= TARGET and last["peak_gib"] <= MEMORY_GIB
    if len(found) == 2:
        details["growth"] = round(last["seconds"] / found[0]["seconds"], 2)
        met = met and details["growth"] <= GROWTH
    name = f"history_{arguments.data.name}" if arguments.data else "history"
    publish(name, last["history_per_second"], "impressions/s through HistoryGen", TARGET, details, met=met)


def one(data: Path, out: Path) -> dict[str, Any]:
    """One size, here."""
    from benchmarks.click_log import impressions_of, run_component
    from components.contract.counts import COUNTS_FILE, ROWS_OUT
    from components.history_gen.executor import Executor as History

    items, impressions, common, first = impressions_of(data, out)
    statistics = json.dumps({"attributes": {"category": "list"}, "dates": ["created_at"]})
    properties = {"history_length": 50, "cold_max_clicks": 5, "new_items": 0, "statistics_spec": statistics}
    outputs = {"examples": out / "examples", "statistics_table": out / "statistics_table"}
    inputs = {"impressions": impressions, "items": items}
    _, second = run_component(History, inputs, outputs, {**common, **properties})
    rows = json.loads((Path(impressions.uri) / COUNTS_FILE).read_text())[ROWS_OUT]
    return {
        "impressions": rows,
        "seconds": round(first + second, 2),
        "impression_gen_per_second": round(rows / first),
        "history_per_second": round(rows / second),
        "both_per_second": round(rows / (first + second)),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


if __name__ == "__main__":
    main()
