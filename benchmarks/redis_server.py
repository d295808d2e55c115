"""A real redis-server, started for a test or a benchmark and ended with it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_port


def redis_program() -> str:
    """The program.

    Raises:
        FileNotFoundError: there is none.
    """
    own = Path(sys.prefix) / "redis/redis-server"
    found = str(own) if own.exists() else shutil.which("redis-server")
    if found is None:
        raise FileNotFoundError("no redis-server, neither on PATH nor in the environment; `make redis` fetches it")
    return found


class RedisServer:
    """Stores its data in `folder`, so that it can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = ["--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", "--daemonize", "no"]
        place = ["--port", str(self.port), "--dir", str(self.folder)]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen([redis_program(), *place, *settings], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"redis-server did not start: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self, kill: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(20)
            self._process = None


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The address of a server that runs while the block does."""
    server = RedisServer(folder)
    try:
        yield server.url
    finally:
        server.stop()
