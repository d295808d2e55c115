"""What is to be served, by configuration and labels; finds the model that a request names.

Source: tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.embedded_server import config_files, version_folders
from serving.embedded_server.errors import ServingFault, failed_precondition, from_code, invalid, not_found
from serving.embedded_server.loaded_model import LoadedModel
from serving.embedded_server.manager import ModelManager, VersionState
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.prediction_logs import PredictionLogs
from serving.messages import AVAILABLE

log = logging.getLogger("mim")

STOP_SECONDS = 0.5


class ServerCore:
    """The models of one server.

    Args:
        options: What to serve, and how.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options, self.monitoring = options, Monitoring()
        self.manager = ModelManager(options, self.monitoring)
        self.request_logs = PredictionLogs(options, self.monitoring)
        self._config: Any = None
        self._labels: Mapping[str, Mapping[str, int]] | None = None
        self._config_lock, self._poll_lock = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Loads what is to be served and waits for it; then watches folders and configuration.

        Args:
            cancelled: Whether the server is to end before it has started.

        Raises:
            ServingFault: the configuration is refused, or a model it names cannot be loaded.
            ValueError: the configuration cannot be read.
        """
        options = self.options
        if options.models is not None:
            self._labels = {}
            self.request_logs.check(self._models())
            self.poll()
            for name in [model.name for model in self._models()]:
                self.manager.wait(name, None, once=True, cancelled=cancelled)
        else:
            self.reload_config(self._first_config(), cancelled)
        if options.file_system_poll_wait_seconds > 0:
            self._every(options.file_system_poll_wait_seconds, self.poll)
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            self._every(options.model_config_file_poll_wait_seconds, self._read_config_again)

    def drain(self) -> None:
        """Ends the watching and the waits for models; runs what waits in batching queues at once."""
        self._stop.set()
        self.manager.drain()

    def stop(self) -> None:
        """Ends the watching and lets the models go."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)  # one that a file system holds up must not hold up the end
        self.manager.stop()
        self.request_logs.stop()

    # -- reading -------------------------------------------------------------------------------------------

    def find(self, spec: Any) -> LoadedModel:
        """The model that a ModelSpec names.

        Raises:
            ServingFault: INVALID_ARGUMENT, NOT_FOUND or UNAVAILABLE.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return self.manager.get(spec.name, spec.version.value)
        if choice == "version_label":
            return self.manager.get(spec.name, self._labelled(spec.name, spec.version_label))
        return self.manager.get(spec.name)

    def status(self, spec: Any) -> list[tuple[int, VersionState]]:
        """States of the versions of a model, newest first.

        Raises:
            ServingFault: NOT_FOUND.
        """
        states = self.manager.states(spec.name)
        if spec.HasField("version"):
            version = spec.version.value
            if version not in states:
                raise not_found(f"Could not find version {version} of model {spec.name}")
            return [(version, states[version])]
        if not states:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return list(states.items())

    def _labelled(self, name: str, label: str) -> int:
        if self._labels is None:
            raise from_code(14, f"Model labels does not init yet.{label}")
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return version

    # -- changing ------------------------------------------------------------------------------------------

    def reload_config(self, config: Any, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Serves what a ModelServerConfig lists, and nothing else; waits until each new model is available.

        Args:
            config: A ModelServerConfig.
            cancelled: Whether nobody waits any more.

        Raises:
            ServingFault: the configuration is refused, or a new model cannot be loaded.
        """
        with self._config_lock:
            first = self._config is None
            if config.WhichOneof("config") is None:
                log.info("Taking no action for empty config.")
                return
            if config.WhichOneof("config") != "model_config_list":
                raise invalid("Invalid ServerModelConfig")
            models, old = list(config.model_config_list.config), self._models()
            config_files.validate(models, old, self.options.models_root)
            self.request_logs.check(models)
            labels = self._checked_labels(models)  # against what is served now: load first, label after
            self._config, self._labels = config, labels
            self.poll()
        # Outside the lock: a model that cannot be loaded must not keep the next configuration out.
        new = [model.name for model in models if model.name not in {known.name for known in old}]

        def ended() -> bool:
            return cancelled() or self._config is not config or self._stop.is_set()

        missing = [name for name in new if not self.manager.wait(name, None, cancelled=ended)]
        if missing and self._stop.is_set():
            raise from_code(14, "the server stops")
        if missing and ended():
            raise from_code(1, "the configuration was replaced, or nobody waits for it, before its models were loaded")
        if missing:
            subject = "servable" if first else "model"
            raise from_code(2, f"{len(missing)} {subject}(s) did not become available: {self._describe(missing)}")

    def poll(self) -> None:
        """Looks at the folders once."""
        with self._poll_lock:
            models = self._models()
            try:
                self.request_logs.update(models)
            except ServingFault as fault:  # of models.config in --models, which changed
                log.warning("request logs are as they were: %s", fault.message)
            try:
                self.manager.aspire({model.name: version_folders.aspired(model) for model in models})
            except OSError as error:  # nothing is unloaded because a disk is away
                log.warning("FileSystemStoragePathSource encountered a filesystem access error: %s", error)

    def _models(self) -> list[Any]:
        folder = self.options.models
        if folder is not None and self._config is None:
            return config_files.models_below(Path(folder).absolute())
        return list(self._config.model_config_list.config) if self._config is not None else []

    def _first_config(self) -> Any:
        if self.options.model_config_file is not None:
            return config_files.read_model_config(self.options.model_config_file)
        return config_files.single_model(self.options.model_name, self.options.model_base_path)

    def _checked_labels(self, models: list[Any]) -> dict[str, dict[str, int]]:
        labels: dict[str, dict[str, int]] = {}
        for model in models:
            states = self.manager.states(model.name)
            for label, version in model.version_labels.items():
                served = version in states and states[version].state == AVAILABLE
                now = (self._labels or {}).get(model.name, {}).get(label, version)
                if not served and not (self.options.allow_version_labels_for_unavailable_models and now == version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, which is not currently "
                        "available for inference"
                    )
                labels.setdefault(model.name, {})[label] = version
        return labels

    def _describe(self, names: list[str]) -> str:
        text = ""
        for name in names:
            for version, state in self.manager.states(name).items():
                code = "" if not state.code else f" due to error: {ServingFault.named(state.code)}: {state.message}"
                text += f"{{{{name: {name} version: {version}}}{code}}}, "
        return "{" + text + "}"

    def _read_config_again(self) -> None:
        assert self.options.model_config_file is not None
        try:
            config = config_files.read_model_config(self.options.model_config_file)
        except ValueError as error:
            log.error("Failed to read ModelServerConfig file: %s", error)
            return
        if config == self._config:
            return
        try:
            self.reload_config(config)
        except ServingFault as fault:
            log.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", fault.message)

    def _every(self, seconds: float, work: Any) -> None:
        def run() -> None:
            while not self._stop.wait(seconds):
                try:
                    work()
                except Exception:  # a look that fails must not be the last
                    log.exception("polling failed")

        thread = threading.Thread(target=run, name="poll", daemon=True)
        self._threads.append(thread)
        thread.start()
