"""What every benchmark leaves behind: one object on standard output, the same in benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks/results"
CODE = ("mim_keras", "components", "tfx_pipeline", "serving", "benchmarks/*.py")
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
    """Prints and writes `{"name", "value", "unit", "target", "met", "details"}` and where it comes from: `"commit"`,
    `"date"`, `"command"` and `"machine"`.

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
    report |= {"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    report |= {"command": command(), "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report), flush=True)
    return report


def commit(project: Path = PROJECT) -> str | None:
    """Hash of the commit that is checked out, with "+changes" where tracked code differs from it; None where that is
    not known."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True)

    if not (project / ".git").exists():
        return None
    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:  # no git
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + "+changes" * (git("diff", "--quiet", "HEAD", "--", *CODE).returncode != 0)


def command(words: list[str] | None = None) -> str:
    """The command line, by default this one, as it was typed; of absolute paths the last part alone."""
    program, *others = words or sys.argv
    file = Path(program)
    own = {"benchmarks": ["python", "-m", f"benchmarks.{file.stem}"], "tfx_pipeline": ["mim"]}
    shown = [re.sub(r"(^|=)/.*?([^/]*)/*$", r"\1\2", word) for word in others]
    return shlex.join([*own.get(file.parent.name, [file.name]), *shown])


def machine() -> dict[str, Any]:
    """Cores, name of the CPU (None where Linux does not say), memory and system."""
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpus.read_text(), re.MULTILINE) if cpus.is_file() else None
    return {
        "cores": os.cpu_count(),
        "cpu": found[1] if found else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


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
