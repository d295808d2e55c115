"""Where the configuration of the servers' models is kept, and how the servers learn of a change.

A file is written under a lock, and the running servers are updated by RPC at once.  A ConfigMap of Kubernetes is
written by compare-and-set, and the servers, which mount it, read it by themselves: a server that is updated by RPC
would go back to the mounted file at its next look.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving import config_text

MODELS_KEY = "models.config"


class ConfigStoreError(RuntimeError):
    """The configuration cannot be read or written."""


@dataclass(frozen=True)
class StoredConfig:
    """What was read.

    Attributes:
        config: A ModelServerConfig.
        text: Its text form.
        revision: Of the text.
    """

    config: Any
    text: str
    revision: Any


class ConfigStore(ABC):
    """A ModelServerConfig in text form.  A change leaves the rest of the text as it is, comments and unknown fields.

    Attributes:
        name: For messages.
        servers_read_it: Whether the servers read it by themselves, so that no RPC updates them.
    """

    name: str
    servers_read_it = False

    @abstractmethod
    def read(self) -> StoredConfig:
        """What is stored.

        Raises:
            ConfigStoreError: it cannot be read, or is no ModelServerConfig.
        """

    @abstractmethod
    def write(self, entry: Any, stored: StoredConfig) -> bool:
        """Writes the version policy and the labels of one model.

        Args:
            entry: A ModelConfig.
            stored: What was read.

        Returns:
            False where it is of another revision by now, and nothing was written.

        Raises:
            ConfigStoreError: it cannot be written.
        """

    def _parsed(self, text: str, revision: Any) -> StoredConfig:
        try:
            return StoredConfig(config_text.parse(text), text, revision)
        except text_format.ParseError as error:
            raise ConfigStoreError(f"{self.name} is no ModelServerConfig: {error}") from error

    def _changed(self, entry: Any, stored: StoredConfig) -> str:
        try:
            return config_text.with_entry(stored.text, entry)
        except (ValueError, text_format.ParseError) as error:
            raise ConfigStoreError(f"{self.name}: {error}") from error


class ConfigFile(ConfigStore):
    """The file of `--model_config_file`, on the machine of the servers.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = str(path)

    def read(self) -> StoredConfig:
        try:
            text = self._path.read_text()
        except OSError as error:
            raise ConfigStoreError(
                f"{self.name} cannot be read: {error}; name the server's model_config_file"
            ) from error
        return self._parsed(text, text)

    def write(self, entry: Any, stored: StoredConfig) -> bool:
        text = self._changed(entry, stored)
        with self._path.with_name(f".{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process
            if self.read().revision != stored.revision:
                return False
            part = self._path.with_name(f".{self._path.name}.part")
            part.write_text(text)
            os.replace(part, self._path)
            return True


class ConfigMap(ConfigStore):
    """A ConfigMap that the servers mount, and that nobody else writes; its other keys stay as they are.

    Args:
        name: `NAMESPACE/NAME`.
        api: Of `kubernetes.client.CoreV1Api`; the cluster of the kubeconfig, or of the pod, where not given.

    Raises:
        ConfigStoreError: the package `kubernetes` is not installed, or no cluster is configured.
    """

    servers_read_it = True

    def __init__(self, name: str, api: Any = None) -> None:
        self._namespace, separator, self._name = name.rpartition("/")
        if not (separator and self._namespace and self._name):
            raise ConfigStoreError(f"a ConfigMap is NAMESPACE/NAME; received {name!r}")
        self.name = f"the ConfigMap {name}"
        self._api = api or _core_api()

    def read(self) -> StoredConfig:
        with self._translated():
            found = self._api.read_namespaced_config_map(self._name, self._namespace)
        text = (found.data or {}).get(MODELS_KEY)
        if text is None:
            raise ConfigStoreError(f"{self.name} has no key {MODELS_KEY}; `mim rollout init` writes it")
        return self._parsed(text, found.metadata.resource_version)

    def write(self, entry: Any, stored: StoredConfig) -> bool:
        # The API server refuses a patch of another revision: compare-and-set.
        change = {
            "metadata": {"resourceVersion": stored.revision},
            "data": {MODELS_KEY: self._changed(entry, stored)},
        }
        try:
            with self._translated():
                self._api.patch_namespaced_config_map(self._name, self._namespace, change)
        except _Conflict:
            return False
        return True

    def create(self, text: str) -> None:
        """Makes the ConfigMap, or adds the key `models.config` to it.

        Raises:
            ConfigStoreError: it has that key already, or `text` is no ModelServerConfig.
        """
        self._parsed(text, None)
        body = {"metadata": {"name": self._name}, "data": {MODELS_KEY: text}}
        try:
            with self._translated():
                self._api.create_namespaced_config_map(self._namespace, body)
            return
        except _Conflict:
            pass
        with self._translated():
            found = self._api.read_namespaced_config_map(self._name, self._namespace)
            if MODELS_KEY in (found.data or {}):
                raise ConfigStoreError(f"{self.name} has a {MODELS_KEY} already; a roll-out changes it")
            change = {"metadata": {"resourceVersion": found.metadata.resource_version}, "data": {MODELS_KEY: text}}
            self._api.patch_namespaced_config_map(self._name, self._namespace, change)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except ConfigStoreError:
            raise
        except Exception as error:  # of urllib3 or of the API
            if getattr(error, "status", None) == 409:
                raise _Conflict(str(error)) from error
            reason = getattr(error, "reason", None) or error
            raise ConfigStoreError(f"{self.name} cannot be used: {reason}") from error


class _Conflict(ConfigStoreError):
    """Somebody else wrote it, or made it."""


def _core_api() -> Any:
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigStoreError(
            "a ConfigMap needs the extra `kubernetes`: pip install 'mim-tensorflow[kubernetes]'"
        ) from error
    try:
        config.load_config()
    except Exception as error:  # no kubeconfig, and no pod
        raise ConfigStoreError(f"no cluster is configured: {error}. Set KUBECONFIG") from error
    return client.CoreV1Api()
