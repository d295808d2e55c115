"""The root of runs, on a local disk or on an object store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from serving.locks import LockedError, locked
from serving.storage import as_path, facts, is_local, to_local, write_text

METADATA, LOG = "metadata.sqlite", "run.log"


class RootBusyError(RuntimeError):
    """Another run writes to the same root."""


class Root:
    """What a process needs of a root on its own disk: the ML Metadata store, which is a file of SQLite, and logs.

    Of a root on an object store there is a local copy, in `~/.cache/mim` or `$XDG_CACHE_HOME/mim`.

    Args:
        location: As given to `mim run`.

    Attributes:
        location: A path.
        state: The local folder; the root itself where it is local.
    """

    def __init__(self, location: str | Path | UPath) -> None:
        self.location = as_path(location)
        self._is_remote = not is_local(self.location)
        self.state = to_local(self.location) if not self._is_remote else _cache() / _digest(str(self.location))

    @property
    def metadata(self) -> str:
        """The newest ML Metadata store.

        Raises:
            FileNotFoundError: nothing was run there yet.
        """
        if self._is_remote:
            self._pull()
        file = self.state / METADATA
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.location / METADATA} does not exist: nothing was run there yet; start with `mim run`"
            )
        return str(file)

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Holds the root while a run writes there; then copies the store and the log there.

        Raises:
            RootBusyError: another run does.
        """
        try:
            with locked(self.location, ".run.lock", wait=0.0) as check, _ended_by_sigterm(self._is_remote):
                self.state.mkdir(parents=True, exist_ok=True)
                if not self._is_remote:
                    yield
                    return
                self._pull()
                try:
                    yield
                finally:
                    check()
                    self._push()
        except LockedError as error:
            raise RootBusyError(f"{error}; wait until it has ended, or give another --root") from None

    def _pull(self) -> None:
        """Copies the store from the root, unless the local one goes on from what is there: a run was killed."""
        there, known = facts(self.location / METADATA), self._known()
        if there == (known or {}):
            return
        for suffix in ("", "-journal", "-wal", "-shm"):  # SQLite would apply those of another file
            (self.state / f"{METADATA}{suffix}").unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)
        if there:  # else the root was deleted
            self.state.mkdir(parents=True, exist_ok=True)
            part = self.state / f".{METADATA}.{os.getpid()}"
            part.write_bytes((self.location / METADATA).read_bytes())
            part.replace(self.state / METADATA)
            write_text(as_path(self._origin), json.dumps(there))

    def _push(self) -> None:
        for name in (METADATA, LOG):
            if (self.state / name).is_file():
                (self.location / name).write_bytes((self.state / name).read_bytes())
        write_text(as_path(self._origin), json.dumps(facts(self.location / METADATA)))

    @property
    def _origin(self) -> Path:
        return self.state / "metadata.origin.json"

    def _known(self) -> object:
        try:
            return json.loads(self._origin.read_text())
        except (OSError, ValueError):
            return None


@contextlib.contextmanager
def _ended_by_sigterm(wanted: bool) -> Iterator[None]:
    """While it lasts, SIGTERM ends the process as an error does, so that what is left is copied and cleaned up."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mim"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
