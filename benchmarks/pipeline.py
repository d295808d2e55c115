"""Seconds a stage, peak memory and quality of one run of the pipeline.

    mim bench pipeline --config sample --data DIR     (the sample is generated where DIR is missing)
    mim bench pipeline --config ml1m --data DIR

Runs in a new root, so nothing is reused; writes benchmarks/results/pipeline_NAME.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.report import MEBIBYTE, PeakMemory, publish

TARGETS = {"sample": 360.0, "ml1m": 2400.0, "ml-small": 2400.0}  # seconds


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--name", default=None)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--root", default=None, help="kept where given; a temporary folder otherwise")
    arguments = parser.parse_args(words)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    if arguments.config == "sample" and not arguments.data.exists():
        from tfx_pipeline.importers.sample import generate_sample

        generate_sample(arguments.data)
    from tfx_pipeline.runners import local
    from tfx_pipeline.runners.newest import newest_metrics
    from tfx_pipeline.settings import Settings

    memory = PeakMemory()
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or folder
        started = time.monotonic()
        times = local.run(Settings.load(arguments.config, arguments.sets), str(arguments.data), root)
        seconds = time.monotonic() - started
        details = {
            "config": arguments.config,
            "set": arguments.sets,
            "peak_memory_mib": round(memory.stop() / MEBIBYTE),
            "metrics": newest_metrics(Path(root)),
            "seconds_a_stage": {node: round(value, 1) for node, value in times.seconds.items()},
        }
    name = arguments.name or arguments.config
    publish(f"pipeline_{name}", round(seconds, 1), "seconds", TARGETS.get(name), details, less_is_better=True)


if __name__ == "__main__":
    main()
