"""A real Apache Flink: Beam's job server with Flink's embedded cluster, started for a test or a benchmark."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ports import free_port

START_SECONDS = 60


def flink_jar() -> Path:
    """The job server.

    Raises:
        FileNotFoundError: there is none.
    """
    jar = Path(sys.prefix) / "flink/job-server.jar"
    if not jar.exists():
        raise FileNotFoundError("no Flink in the environment; `make flink` fetches it, where there are Java and Maven")
    return jar


@contextlib.contextmanager
def running_flink(
    parallelism: int = 2, heap: str = "1g", log: Path | None = None
) -> Iterator[tuple[tuple[str, ...], int]]:
    """(flags of Beam that run a pipeline there, with workers in the caller's process; the server's process id)."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = [
            "java",
            f"-Xmx{heap}",
            "-jar",
            str(flink_jar()),
            "--flink-master",
            "[auto]",
            "--artifacts-dir",
            folder,
        ]
        ports = ["--job-port", str(port), "--artifact-port", "0", "--expansion-port", "0"]
        with (Path(folder) / "log").open("wb") as output:
            process = subprocess.Popen([*server, *ports], stdout=output, stderr=output)
        try:
            _wait_for(port, process)
            place = (f"--job_endpoint=127.0.0.1:{port}", "--environment_type=LOOPBACK")
            yield ("--runner=FlinkRunner", *place, f"--parallelism={parallelism}"), process.pid
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"Flink's job server did not start within {START_SECONDS} s (exit {process.poll()})")
