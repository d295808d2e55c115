"""Which versions of which models are served: loaded beside the old ones, swapped in, unloaded after.

Source: tensorflow_serving/core/{aspired_versions_manager,availability_preserving_policy,loader_harness}.cc.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from serving.embedded_server.batching import BatchThreads
from serving.embedded_server.errors import ServingFault, from_code, not_found
from serving.embedded_server.loaded_model import LoadedModel
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.messages import AVAILABLE, END, LOADING, START, UNLOADING

log = logging.getLogger("mim")

TICK_SECONDS = 0.1


@dataclass(frozen=True)
class VersionState:
    """What `GetModelStatus` says of a version."""

    state: int
    code: int = 0
    message: str = ""


@dataclass
class _Version:
    """A version that is asked for, or was and is still there."""

    folder: Path
    state: VersionState = VersionState(START)
    model: LoadedModel | None = None
    wanted: bool = True
    given_up: threading.Event = field(default_factory=threading.Event)
    tried: bool = False

    @property
    def ready(self) -> bool:
        return self.state.state == AVAILABLE

    @property
    def failed(self) -> bool:
        return self.state.state == END


class ModelManager:
    """Keeps the loaded versions in step with those asked for.

    A version that cannot be loaded is tried again, and never takes the place of one that works.  Readers see a map
    that is replaced whole, and keep what they took for as long as they use it.

    Args:
        options: Retries, threads, batching, warm-up.
        monitoring: Handed to the models.
    """

    def __init__(self, options: ServerOptions, monitoring: Monitoring) -> None:
        self._options, self._monitoring = options, monitoring
        self._batch_threads = BatchThreads.of(options)
        self._lock = threading.RLock()
        self._versions: dict[str, dict[int, _Version]] = {}
        self._ended: dict[str, dict[int, VersionState]] = {}
        self._serving: Mapping[str, Mapping[int, LoadedModel]] = MappingProxyType({})
        self._changed = threading.Condition(self._lock)
        self._stop = threading.Event()
        self._loaders = ThreadPoolExecutor(max(1, options.num_load_threads), "model-load")
        self._thread = threading.Thread(target=self._run, name="model-manager", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Runs what waits in batching queues, and what comes, at once."""
        if self._batch_threads is not None:
            self._batch_threads.drain()

    def stop(self) -> None:
        """Ends the work and lets every model go."""
        self._stop.set()
        with self._changed:
            for versions in self._versions.values():
                for version in versions.values():
                    version.given_up.set()
            self._changed.notify_all()
        self._thread.join()
        self._loaders.shutdown(wait=False, cancel_futures=True)  # nothing can interrupt TensorFlow while it loads
        if self._batch_threads is not None:
            self._batch_threads.stop()
        with self._lock:
            self._serving = MappingProxyType({})
            self._versions.clear()

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, name: str, version: int | None = None) -> LoadedModel:
        """The newest available version, or the one asked for.

        Raises:
            ServingFault: NOT_FOUND.
        """
        loaded = self._serving.get(name)
        if version is None:
            if not loaded:
                raise not_found(f"Servable not found for request: Latest({name})")
            return next(iter(loaded.values()))
        if not loaded or version not in loaded:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return loaded[version]

    def knows(self, name: str) -> bool:
        """Whether a model of this name is or was asked for; takes no lock."""
        return name in self._serving or name in self._versions or name in self._ended

    def available(self) -> dict[str, list[int]]:
        """Model → its available versions, newest first."""
        return {name: list(loaded) for name, loaded in sorted(self._serving.items()) if loaded}

    def states(self, name: str) -> dict[int, VersionState]:
        """Every version of a model that is or was asked for, newest first."""
        with self._lock:
            known = dict(self._ended.get(name, {}))
            known.update({number: version.state for number, version in self._versions.get(name, {}).items()})
        return dict(sorted(known.items(), reverse=True))

    def wait(
        self, name: str, seconds: float | None, once: bool = False, cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Waits until a version of a model is available, or none can be any more.

        Args:
            name: Of the model.
            seconds: At most; None for ever.
            once: Return also when each of its versions was tried once.
            cancelled: Asked ten times a second; ends the wait.

        Returns:
            Whether one is available.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not (self._stop.is_set() or cancelled()):
                versions = list(self._versions.get(name, {}).values())
                if any(version.ready for version in versions):
                    return True
                settled = versions and all(version.failed or (once and version.tried) for version in versions)
                left = None if deadline is None else deadline - time.monotonic()
                if settled or (once and not versions) or (left is not None and left <= 0):
                    return False
                self._changed.wait(TICK_SECONDS if left is None else min(left, TICK_SECONDS))
        return False

    # -- changing ------------------------------------------------------------------------------------------

    def aspire(self, wanted: Mapping[str, Mapping[int, Path]]) -> None:
        """Asks for these versions of these models, and for no others."""
        with self._changed:
            for name, versions in self._versions.items():
                for number, version in versions.items():
                    version.wanted = number in wanted.get(name, {})
                    if not version.wanted:
                        version.given_up.set()
            for name, folders in wanted.items():
                versions = self._versions.setdefault(name, {})
                for number, folder in folders.items():
                    if number not in versions:
                        versions[number] = _Version(folder)
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                for name in list(self._versions):
                    while self._act(name):
                        pass
                self._changed.wait(TICK_SECONDS)

    def _act(self, name: str) -> bool:
        """The next thing to do for a model by the availability-preserving policy; whether there was any."""
        versions = self._versions[name]
        for number, version in list(versions.items()):
            if not version.wanted and version.state.state in (START, END):  # asked for and not any more
                self._forget(name, number, version.state if version.failed else None)
            elif version.wanted and version.failed and version.given_up.is_set():  # wanted again
                versions[number] = _Version(version.folder)
        if not versions:
            del self._versions[name]
            return False
        wanted = [version for version in versions.values() if version.wanted]
        unwanted = sorted(number for number, version in versions.items() if not version.wanted and version.ready)
        if unwanted and (not wanted or any(version.ready for version in wanted) or len(unwanted) > 1):
            self._unload(name, unwanted[0])
            return True
        if any(version.state.state == LOADING for version in versions.values()):
            return False  # one at a time
        new = [number for number, version in versions.items() if version.wanted and version.state.state == START]
        if new:
            self._set(versions[max(new)], VersionState(LOADING))
            self._loaders.submit(self._load, name, max(new), versions[max(new)])
        return False

    def _load(self, name: str, number: int, version: _Version) -> None:
        started = time.monotonic()
        for attempt in range(self._options.max_num_load_retries + 1):
            if version.given_up.is_set():
                break
            try:
                model = LoadedModel(name, number, version.folder, self._options, self._monitoring, self._batch_threads)
            except ServingFault as fault:
                log.warning("model %s: version %d cannot be loaded: %s", name, number, fault.message)
                state = VersionState(END, fault.code.value[0], fault.message)
            except Exception as error:  # whatever it is, the next model must still be loaded
                log.exception("model %s: version %d cannot be loaded", name, number)
                state = VersionState(END, 13, repr(error))
            else:
                self._publish(name, number, version, model, time.monotonic() - started)
                return
            if attempt == self._options.max_num_load_retries:
                self._set(version, state)
                return
            with self._changed:
                version.tried = True
                self._changed.notify_all()
            version.given_up.wait(max(0, self._options.load_retry_interval_micros) / 1e6)
        cancelled = from_code(1, "Loading of servable cancelled")
        self._set(version, VersionState(END, cancelled.code.value[0], cancelled.message))

    def _publish(self, name: str, number: int, version: _Version, model: LoadedModel, seconds: float) -> None:
        with self._changed:
            if self._stop.is_set():
                return
            version.model = model
            loaded = {**self._serving.get(name, {}), number: model}
            ordered = MappingProxyType(dict(sorted(loaded.items(), reverse=True)))
            self._serving = MappingProxyType({**self._serving, name: ordered})
            self._set(version, VersionState(AVAILABLE))
        log.info("model %s: version %d available after %.1f s", name, number, seconds)

    def _unload(self, name: str, number: int) -> None:
        version = self._versions[name][number]
        loaded = {n: model for n, model in self._serving[name].items() if n != number}
        self._serving = MappingProxyType({**self._serving, name: MappingProxyType(loaded)})
        self._set(version, VersionState(UNLOADING))
        model, version.model = version.model, None
        assert model is not None
        released = model.released
        del model  # the last reference, or a call in flight has it
        threading.Thread(target=self._await_release, args=(name, number, released), daemon=True).start()

    def _await_release(self, name: str, number: int, released: threading.Event) -> None:
        released.wait()
        gc.collect()  # a graph refers to itself; some 20 ms, as what was there at the start is frozen
        log.info("model %s: version %d unloaded", name, number)
        with self._changed:
            self._forget(name, number, VersionState(END))

    def _forget(self, name: str, number: int, last: VersionState | None) -> None:
        self._versions.get(name, {}).pop(number, None)
        if last is not None:
            self._ended.setdefault(name, {})[number] = last
        self._changed.notify_all()

    def _set(self, version: _Version, state: VersionState) -> None:
        with self._changed:
            version.state, version.tried = state, version.tried or state.state in (AVAILABLE, END)
            self._changed.notify_all()
