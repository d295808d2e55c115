"""Seconds a stage, peak memory and quality of one run of the pipeline.

    python -m benchmarks.pipeline --config sample --data DIR     (the sample is generated where DIR is missing)
    python -m benchmarks.pipeline --config ml1m --data DIR --name ml1m

Runs in a new root, so nothing is reused; writes benchmarks/results/pipeline_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"
MEBIBYTE = 2**20


class PeakMemory(threading.Thread):
    """Resident memory of this process and its children, looked at twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = 0, threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(0.5):
            total = me.memory_info().rss
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it ended meanwhile
                    continue
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        """The peak in bytes."""
        self._ended.set()
        self.join()
        return self.peak


def main() -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--name", default=None)
    parser.add_argument("--root", default=None, help="kept where given; a temporary folder otherwise")
    arguments = parser.parse_args()
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
        times = local.run(Settings.load(arguments.config), str(arguments.data), root)
        seconds = time.monotonic() - started
        report = {
            "name": "pipeline",
            "config": arguments.config,
            "value": round(seconds, 1),
            "unit": "seconds",
            "peak_memory_mib": round(memory.stop() / MEBIBYTE),
            "metrics": newest_metrics(Path(root)),
            "seconds_a_stage": {node: round(value, 1) for node, value in times.seconds.items()},
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        }
    name = arguments.name or arguments.config
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"pipeline_{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
