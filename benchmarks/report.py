"""What every benchmark leaves behind: one object on standard output, the same in benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
import threading
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
MEBIBYTE = 2**20


def publish(
    name: str,
    value: float,
    unit: str,
    target: float | None,
    details: dict[str, Any],
    met: bool | None = None,
    less_is_better: bool = False,
) -> dict[str, Any]:
    """Prints and writes `{"name", "value", "unit", "target", "met", "details", "machine"}`.

    Args:
        name: Of the file in benchmarks/results.
        value, unit: The figure.
        target: It is held against, or None.
        details: Whatever else was measured.
        met: Whether all targets were met, where there are more than `target`.
        less_is_better: Whether the value must stay below its target.
    """
    if met is None and target is not None:
        met = value <= target if less_is_better else value >= target
    report = {"name": name, "value": value, "unit": unit, "target": target, "met": met, "details": details}
    report["machine"] = {"cores": os.cpu_count(), "system": platform.platform()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report), flush=True)
    return report


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
