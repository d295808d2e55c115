"""Which versions of which models are served: folders polled, the newest version loaded before the old one goes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from serving.embedded_server.errors import ServingFault, not_found
from serving.embedded_server.loaded_model import LoadedModel

log = logging.getLogger("mim")

# tensorflow.serving.ModelVersionStatus.State
LOADING, AVAILABLE, END = 20, 30, 50


@dataclass(frozen=True)
class VersionState:
    """What `GetModelStatus` says of a version."""

    state: int
    code: int = 0
    message: str = ""


@dataclass
class _Watched:
    """One model: its folder, the loaded versions (replaced whole, never changed) and what became of the others."""

    folder: Path
    loaded: dict[int, LoadedModel] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    next_attempt: dict[int, float] = field(default_factory=dict)


class ModelStore:
    """Every folder below `base` is a model; every folder below that whose name is a number is a version of it.

    The newest version is served.  A new one is loaded and warmed up outside the request path, and only then
    takes over; one that cannot be loaded never evicts one that works, and is tried again.

    Args:
        base: Folder of models.
        poll_seconds: Seconds between looks at the folders.
        max_load_retries: How often a broken version is tried again.
        load_retry_seconds: Seconds between such tries.
    """

    def __init__(
        self, base: Path, poll_seconds: float = 1.0, max_load_retries: int = 5, load_retry_seconds: float = 60.0
    ) -> None:
        self._base, self._poll_seconds = base, poll_seconds
        self._max_retries, self._retry_seconds = max_load_retries, load_retry_seconds
        self._models: dict[str, _Watched] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads what is there, then keeps watching in a thread."""
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="model-store", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def names(self) -> list[str]:
        """Models of which a version is available."""
        return sorted(name for name, model in self._models.items() if model.loaded)

    def get(self, name: str, version: int | None = None) -> LoadedModel:
        """The newest available version, or the one asked for.

        Raises:
            ServingFault: NOT_FOUND.
        """
        model = self._models.get(name)
        loaded = model.loaded if model is not None else {}
        if version is None:
            if not loaded:
                raise not_found(f"Servable not found for request: Latest({name})")
            return loaded[max(loaded)]
        if version not in loaded:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return loaded[version]

    def status(self, name: str, version: int | None = None) -> list[tuple[int, VersionState]]:
        """States of the versions of a model, newest first.

        Raises:
            ServingFault: NOT_FOUND.
        """
        model = self._models.get(name)
        if model is None or not model.states:
            raise not_found(f"Could not find any versions of model {name}")
        states = dict(model.states)
        if version is not None:
            if version not in states:
                raise not_found(f"Could not find version {version} of model {name}")
            return [(version, states[version])]
        return sorted(states.items(), reverse=True)

    def poll(self) -> None:
        """Looks at the folders once and loads, swaps and unloads accordingly."""
        if not self._base.is_dir():
            return
        for folder in sorted(path for path in self._base.iterdir() if path.is_dir()):
            model = self._models.setdefault(folder.name, _Watched(folder))
            try:
                self._follow(folder.name, model)
            except OSError as error:  # a folder that vanished while it was read; the next look will tell
                log.warning("model %s: %s", folder.name, error)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.poll()

    def _follow(self, name: str, model: _Watched) -> None:
        found = {int(path.name): path for path in model.folder.iterdir() if path.is_dir() and path.name.isdigit()}
        newest = max(found, default=None)
        if newest is not None and newest not in model.loaded:
            self._load(name, model, newest, found[newest])
        keep = newest if newest in model.loaded else max(model.loaded, default=None)
        if newest is None:
            keep = None
        for version in [v for v in model.loaded if v != keep]:
            model.loaded = {v: m for v, m in model.loaded.items() if v != version}
            model.states[version] = VersionState(END)
            log.info("model %s: version %d unloaded", name, version)

    def _load(self, name: str, model: _Watched, version: int, folder: Path) -> None:
        tries = model.attempts.get(version, 0)
        if tries > self._max_retries or time.monotonic() < model.next_attempt.get(version, 0.0):
            return
        model.states[version] = VersionState(LOADING)
        started = time.monotonic()
        try:
            loaded = LoadedModel(name, version, folder)
        except ServingFault as fault:
            model.attempts[version] = tries + 1
            model.next_attempt[version] = time.monotonic() + self._retry_seconds
            last = tries >= self._max_retries
            model.states[version] = (
                VersionState(END, fault.code.value[0], fault.message) if last else VersionState(LOADING)
            )
            log.warning("model %s: version %d cannot be loaded: %s", name, version, fault.message)
            return
        model.loaded = {**model.loaded, version: loaded}
        model.states[version] = VersionState(AVAILABLE)
        log.info("model %s: version %d available after %.1f s", name, version, time.monotonic() - started)
