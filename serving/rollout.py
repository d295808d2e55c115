"""A new version beside the old one, compared, then in its place; or gone again.

Labels say who is who: `stable` serves, `canary` is on trial, `previous` is where a rollback leads.  The configuration
of the servers' models is the truth: it is written first, so that a restart finds the same.  Of a file the running
servers are updated by RPC; a ConfigMap they read by themselves, each at its own time, and the roll-out waits for each.
A server takes a label only for a version that it has loaded, so a version is loaded first and labelled after.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from serving import config_text, messages
from serving.channel import ServerError, Tls, open_channel
from serving.client import MimClient
from serving.config_store import ConfigFile, ConfigStore, ConfigStoreError, StoredConfig
from serving.shadow import Comparison, Limits, compare

log = logging.getLogger("mim")

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
LOAD_SECONDS = 300.0
WRITE_TRIES, POLL_SECONDS = 5, 0.5
_PROGRESS = ["END", "UNLOADING", "UNKNOWN", "START", "LOADING", "AVAILABLE"]


class RolloutError(RuntimeError):
    """A step of a roll-out that cannot be taken; nothing was changed by it."""


@dataclass(frozen=True)
class Place:
    """Where a model's roll-out stands: label → version, and version → state on every server, newest first.

    Where servers differ, the state is the least of theirs.
    """

    labels: dict[str, int]
    states: dict[int, str]


class Rollout:
    """Rolls versions of one model out on servers that share a configuration.

    Args:
        model: Its name.
        config: The servers' model_config_file, or another place where their configuration is kept.
        servers: `host:port` of each.
        tls: Certificates; a plain connection without.
        metadata: Sent with every call, a token say.

    Raises:
        RolloutError: the file cannot be read, or does not list the model.
    """

    def __init__(
        self,
        model: str,
        config: Path | ConfigStore,
        servers: Sequence[str],
        tls: Tls | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._model, self._servers = model, list(servers)
        self._store = config if isinstance(config, ConfigStore) else ConfigFile(config)
        self._tls, self._metadata = tls, tuple(metadata)
        self._config = self._read().config
        self._entry(self._config)

    def place(self) -> Place:
        """Where it stands.

        Raises:
            ServerError: the server cannot be reached.
        """
        entry = self._entry(self._config)
        found = []
        for server in self._servers:
            with self._client(server) as client:
                found.append({status.version: status.state for status in client.status(self._model)})
        # A version that a server does not list is not there.
        versions = {version for states in found for version in states}
        states = {version: min((one.get(version, "END") for one in found), key=_PROGRESS.index) for version in versions}
        return Place(dict(sorted(entry.version_labels.items())), dict(sorted(states.items(), reverse=True)))

    def hold(self, version: int | None = None, seconds: float = LOAD_SECONDS) -> Place:
        """Labels a version `stable` and serves it alone: newer folders wait until they are asked for.

        Args:
            version: The newest available one where not given; another is loaded first.
            seconds: How long it may take to load.

        Raises:
            RolloutError: it cannot be loaded, or the server has none; all is as it was.
            ServerError: the server cannot be reached.
        """
        place = self.place()
        stable = self._stable(place) if version is None else version
        served = {number for number, state in place.states.items() if state == "AVAILABLE"}
        self._load({stable, *served}, {k: v for k, v in place.labels.items() if v in served}, stable, seconds)
        return self._apply({stable}, {STABLE: stable})

    def canary(self, version: int, seconds: float = LOAD_SECONDS) -> Place:
        """Loads a version beside the stable one, then labels it `canary`.

        Raises:
            RolloutError: it is the stable one, or cannot be loaded; all is as it was.
            ServerError: the server cannot be reached.
        """
        place = self.place()
        stable = self._stable(place)
        if version == stable and STABLE not in place.labels:
            raise RolloutError(
                f"version {version} of {self._model} took over by itself, as the configuration asks for the newest. Go "
                "back to the one before and keep to it: mim rollout hold --version V; then start the canary"
            )
        if version == stable:
            raise RolloutError(f"version {version} of {self._model} is the stable one already; name a newer one")
        labels = {STABLE: stable}
        if place.states.get(place.labels.get(PREVIOUS, -1)) == "AVAILABLE":
            labels[PREVIOUS] = place.labels[PREVIOUS]
        keep = {version, *labels.values()}
        self._load(keep, labels, version, seconds)
        return self._apply(keep, {**labels, CANARY: version})

    def compare(
        self, requests: Iterable[Any], max_requests: int = 2_000, on_progress: Callable[[int], None] | None = None
    ) -> Comparison:
        """The canary against the stable version on logged requests.

        Raises:
            RolloutError: there is no canary.
            ServerError: the server cannot be reached.
        """
        place = self.place()
        stable, canary = self._stable(place), self._canary(place)
        with open_channel(self._servers[0], self._tls) as channel:
            return compare(
                channel,
                requests,
                self._model,
                stable,
                canary,
                max_requests=max_requests,
                on_progress=on_progress,
                metadata=self._metadata,
            )

    def promote(self, comparison: Comparison | None, limits: Limits | None = None) -> Place:
        """Makes the canary stable; the version before stays loaded, as `previous`.

        Args:
            comparison: What `compare` measured; None promotes unseen.
            limits: What it must keep.

        Raises:
            RolloutError: there is no canary, or it is past a limit.
            ServerError: the server cannot be reached.
        """
        place = self.place()
        stable, canary = self._stable(place), self._canary(place)
        beyond = comparison.beyond(limits or Limits()) if comparison is not None else []
        if beyond:
            raise RolloutError(f"version {canary} of {self._model} is not promoted: " + "; ".join(beyond))
        return self._apply({canary, stable}, {STABLE: canary, PREVIOUS: stable})

    def rollback(self) -> Place:
        """Takes the canary away; without one, makes `previous` stable again and takes the version after it away.

        Raises:
            RolloutError: there is neither.
            ServerError: the server cannot be reached.
        """
        place = self.place()
        labels = place.labels
        if CANARY in labels:
            kept = {label: number for label, number in labels.items() if label != CANARY}
            versions = set(kept.values()) or {
                version for version, state in place.states.items() if state == "AVAILABLE" and version != labels[CANARY]
            }
            if not versions:
                raise RolloutError(
                    f"{self._model} has no version but the canary; label the one to keep: mim rollout hold"
                )
            return self._apply(versions, kept)
        if PREVIOUS not in labels:
            raise RolloutError(f"{self._model} has neither a canary nor a previous version to go back to")
        return self._apply({labels[PREVIOUS]}, {STABLE: labels[PREVIOUS]})

    def _load(self, keep: set[int], labels: dict[str, int], version: int, seconds: float) -> None:
        """Serves the versions `keep`, and waits until `version`, one of them, is available; or leaves all as it was."""
        before = _copy(self._config)
        try:
            self._apply(keep, labels, seconds)
            for server in self._servers:
                with self._client(server) as client:
                    client.wait_until_available(self._model, seconds=seconds, version=version)
        except ServerError as error:
            self._restore(before)
            raise RolloutError(
                f"version {version} of {self._model} does not load: {error}. The server is as it was"
            ) from error

    # -- the file and the server ---------------------------------------------------------------------------

    def _apply(self, versions: set[int], labels: dict[str, int], seconds: float = LOAD_SECONDS) -> Place:
        entry = _copy(self._config).model_config_list.config[self._index(self._config)]
        entry.model_version_policy.Clear()
        entry.model_version_policy.specific.versions.extend(sorted(versions))
        entry.version_labels.clear()
        entry.version_labels.update(labels)
        self._write(entry)
        self._settle(seconds)
        return self.place()

    def _restore(self, before: Any) -> None:
        self._write(self._entry(before))
        if self._store.servers_read_it:
            return
        try:
            self._reload()
        except ServerError as error:
            log.warning("the file is as it was, but the server did not reload it: %s", error)

    def _read(self) -> StoredConfig:
        try:
            return self._store.read()
        except ConfigStoreError as error:
            raise RolloutError(str(error)) from error

    def _write(self, entry: Any) -> None:
        """Writes the model's entry, and keeps those of other models as they are by now.

        Raises:
            RolloutError: somebody changed the model's entry since it was read.
        """
        for _ in range(WRITE_TRIES):
            stored = self._read()
            now = stored.config
            if self._entry(now) != self._entry(self._config):
                raise RolloutError(
                    f"{self._store.name} was changed for {self._model} by somebody else meanwhile; look at `mim "
                    "rollout status` and begin again"
                )
            now.model_config_list.config[self._index(now)].CopyFrom(entry)
            try:
                written = self._store.write(entry, stored)
            except ConfigStoreError as error:
                raise RolloutError(str(error)) from error
            if written:
                self._config = now
                return
        raise RolloutError(f"{self._store.name} is changed all the time; try again")

    def _settle(self, seconds: float) -> None:
        """Tells the servers; or waits until each of them has read what was written."""
        if not self._store.servers_read_it:
            self._reload()
            return
        entry = self._entry(self._config)
        begun, waiting = time.monotonic(), list(self._servers)
        while waiting:
            for server in list(waiting):
                if self._has_read(server, entry):
                    waiting.remove(server)
                    log.info("%s has it after %.0f s", server, time.monotonic() - begun)
            if waiting and time.monotonic() - begun > seconds:
                raise ServerError(
                    f"{', '.join(waiting)} did not take the configuration of {self._store.name} within {seconds:.0f} s",
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
            if waiting:
                time.sleep(POLL_SECONDS)

    def _has_read(self, server: str, entry: Any) -> bool:
        """Whether a server serves the entry's versions, no others, and knows its labels."""
        wanted = set(entry.model_version_policy.specific.versions)
        try:
            with self._client(server) as client:
                available = {one.version for one in client.status(self._model) if one.state == "AVAILABLE"}
            if available != wanted:
                return False
            with open_channel(server, self._tls) as channel:
                for label, version in entry.version_labels.items():
                    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
                    request.model_spec.name, request.model_spec.version_label = self._model, label
                    response = messages.calls(channel)["GetModelMetadata"](request, timeout=10, metadata=self._metadata)
                    if response.model_spec.version.value != version:
                        return False
        except (ServerError, grpc.RpcError):
            return False  # it starts, or does not know the label yet
        return True

    def _reload(self) -> None:
        unknown = config_text.unknown_fields(self._read().text)
        if unknown:
            log.warning(
                "%s has fields that are not known here: %s.  They stay in it, and are not sent to the running servers, "
                "which have them when they read it again",
                self._store.name,
                ", ".join(unknown),
            )
        request = messages.ReloadConfigRequest(config=self._config)
        for server in self._servers:
            with open_channel(server, self._tls) as channel:
                try:
                    answer = messages.calls(channel)["HandleReloadConfigRequest"](
                        request, timeout=LOAD_SECONDS, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    raise ServerError.of(error, server) from error
                if answer.status.error_code:
                    raise ServerError(answer.status.error_message, grpc.StatusCode.UNKNOWN)

    def _entry(self, config: Any) -> Any:
        return config.model_config_list.config[self._index(config)]

    def _index(self, config: Any) -> int:
        names = [entry.name for entry in config.model_config_list.config]
        if self._model not in names:
            listed = ", ".join(sorted(names)) or "no model"
            raise RolloutError(f"{self._store.name} lists {listed}; {self._model} is not among them")
        return names.index(self._model)

    def _client(self, server: str) -> MimClient:
        return MimClient(server, timeout=10.0, tls=self._tls, metadata=self._metadata)

    def _stable(self, place: Place) -> int:
        if STABLE in place.labels:
            return place.labels[STABLE]
        available = [version for version, state in place.states.items() if state == "AVAILABLE"]
        if not available:
            raise RolloutError(f"the server has no version of {self._model} to compare with or fall back to")
        return max(available)

    def _canary(self, place: Place) -> int:
        if CANARY not in place.labels:
            raise RolloutError(f"{self._model} has no canary; start one: mim rollout canary --version V")
        return place.labels[CANARY]


def _copy(config: Any) -> Any:
    copied = messages.ModelServerConfig()
    copied.CopyFrom(config)
    return copied
