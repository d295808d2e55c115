"""Pairs a second out of PairGen, from histories, TFRecords in and out.

mim bench pairs                  a generated log of a million impressions
mim bench pairs --data FOLDER    a folder of the data contract
"""

from __future__ import annotations

import argparse
import gzip
import resource
import tempfile
from pathlib import Path

from benchmarks.report import publish

TARGET = 50_000


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--source", default="history", choices=("history", "impressions"))
    arguments = parser.parse_args(words)
    from benchmarks.click_log import impressions_of, run_component, write_click_log
    from components.pair_gen.executor import Executor as Pairs
    from components.records import read_records

    with tempfile.TemporaryDirectory() as name:
        data, out = arguments.data or Path(name) / "data", Path(name) / "out"
        if not arguments.data:
            write_click_log(data, arguments.impressions)
        items, impressions, common, _ = impressions_of(data, out)
        properties = {
            **common,
            "spans": "{}",
            "source": arguments.source,
            "window_seconds": 30 * 86_400,
            "max_gap": 2,
            "max_per_user": 200,
            "query_length": 20,
            "hard": 16,
        }
        inputs = {"items": items, "impressions": impressions}
        _, seconds = run_component(Pairs, inputs, {"pairs": out / "pairs"}, properties)
        count = 0
        for path in (out / "pairs").rglob("*.gz"):
            with gzip.open(path) as handle:
                count += sum(len(batch) for batch in read_records(handle, str(path)))
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    details = {"pairs": count, "seconds": round(seconds, 2), "peak_gib": peak}
    parts = ["pairs", data.name if arguments.data else "", arguments.source if arguments.source != "history" else ""]
    publish("_".join(filter(None, parts)), round(count / seconds), "pairs/s", TARGET, details)


if __name__ == "__main__":
    main()
