"""Roll-outs by a ConfigMap: three servers that mount it, each of which sees a change at its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.client import MimClient, ServerError
from serving.config_store import ConfigMap, ConfigStoreError
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.rollout import Rollout, RolloutError
from tests.serving.adder import export
from tests.serving.test_client import XY

SERVERS, POLL = 3, 0.2


class ApiError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Cluster:
    """The three calls that a ConfigMap needs, with the API server's rule of revisions; and kubelets, which bring a
    change into the mounted folders by the swap of a symbolic link, each after a delay of its own."""

    def __init__(self, mounts: list[Path]) -> None:
        self.mounts, self.revision, self.lock = mounts, 0, threading.Lock()
        self.data: dict[str, str] | None = None

    def read_namespaced_config_map(self, name: str, namespace: str) -> Any:
        with self.lock:
            if self.data is None:
                raise ApiError(404, "Not Found")
            metadata = SimpleNamespace(resource_version=str(self.revision))
            return SimpleNamespace(data=dict(self.data), metadata=metadata)

    def create_namespaced_config_map(self, namespace: str, body: dict[str, Any]) -> None:
        with self.lock:
            if self.data is not None:
                raise ApiError(409, "Conflict")
            self._set(body["data"])

    def patch_namespaced_config_map(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        with self.lock:
            if body["metadata"]["resourceVersion"] != str(self.revision):
                raise ApiError(409, "Conflict")
            self._set({**(self.data or {}), **body["data"]})

    def _set(self, data: dict[str, str]) -> None:
        self.data, self.revision = data, self.revision + 1
        for place, mount in enumerate(self.mounts):
            threading.Timer(0.0 if self.revision == 1 else 0.3 * place, self._mount, (mount, dict(data))).start()

    def _mount(self, mount: Path, data: dict[str, str]) -> None:
        folder = mount / f"..{time.time_ns()}"
        folder.mkdir(parents=True)
        for name, text in data.items():
            (folder / name).write_text(text)
        link = mount / "..new"
        link.symlink_to(folder.name)
        link.replace(mount / "..data")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, list[EmbeddedServer]]]:
    export(tmp_path / "adder/1", 1.0)
    found = Cluster([tmp_path / f"mount{n}" for n in range(SERVERS)])
    text = (
        f'model_config_list {{ config {{ name: "adder" base_path: "{tmp_path}/adder" model_platform: "tensorflow" }} }}'
    )
    ConfigMap("mim/models", found).create(text)
    with found.lock:
        assert found.data is not None
        found.data["another"] = "key"
    deadline = time.monotonic() + 10
    files = [mount / "..data/models.config" for mount in found.mounts]
    while not all(file.is_file() for file in files) and time.monotonic() < deadline:
        time.sleep(0.02)
    options = [
        ServerOptions(
            model_config_file=file,
            model_config_file_poll_wait_seconds=POLL,
            file_system_poll_wait_seconds=POLL,
            allow_version_labels_for_unavailable_models=True,
            max_num_load_retries=0,
            port=0,
        )
        for file in files
    ]
    servers = [EmbeddedServer(options=one).start() for one in options]
    yield found, servers
    for server in servers:
        server.stop()


def test_a_roll_out_waits_for_each_server(cluster: tuple[Cluster, list[EmbeddedServer]], tmp_path: Path) -> None:
    found, servers = cluster
    addresses = [server.address for server in servers]

    def opened() -> Rollout:
        return Rollout("adder", ConfigMap("mim/models", found), addresses)

    failures: list[str] = []
    stop = threading.Event()

    def ask(address: str) -> None:
        with MimClient(address, labels={"adder": "stable"}, timeout=5) as client:
            while not stop.is_set():
                try:
                    client.predict("adder", "", XY)
                except ServerError as error:
                    failures.append(str(error))
                time.sleep(0.01)

    assert opened().hold(seconds=20).labels == {"stable": 1}
    askers = [threading.Thread(target=ask, args=(address,)) for address in addresses]
    for asker in askers:
        asker.start()
    export(tmp_path / "adder/2", 2.0)
    time.sleep(4 * POLL)
    assert opened().place().states == {1: "AVAILABLE"}, "a poll of the servers undoes nothing"
    assert opened().canary(2, seconds=20).labels == {"stable": 1, "canary": 2}
    time.sleep(4 * POLL)
    for address in addresses:
        with MimClient(address, labels={"adder": "canary"}) as client:
            assert client.predict("adder", "", XY)["amount"] == 2.0
    assert opened().promote(None).labels == {"stable": 2, "previous": 1}
    time.sleep(4 * POLL)
    for address in addresses:
        with MimClient(address, labels={"adder": "stable"}) as client:
            assert client.predict("adder", "", XY)["amount"] == 2.0
    assert opened().rollback().labels == {"stable": 1}
    stop.set()
    for asker in askers:
        asker.join()
    assert failures == [], "whoever asks by label is answered through every step"
    assert found.data is not None
    assert found.data["another"] == "key"


def test_a_version_that_does_not_load_leaves_all_as_it_was(
    cluster: tuple[Cluster, list[EmbeddedServer]], tmp_path: Path
) -> None:
    found, servers = cluster
    roll = Rollout("adder", ConfigMap("mim/models", found), [server.address for server in servers])
    roll.hold(seconds=20)
    (tmp_path / "adder/2").mkdir()
    with pytest.raises(RolloutError, match="version 2 of adder does not load"):
        roll.canary(2, seconds=2)
    assert found.data is not None
    assert "2" not in found.data["models.config"].partition("versions:")[2].partition("\n")[0]


def test_two_writers_of_a_config_map(cluster: tuple[Cluster, list[EmbeddedServer]]) -> None:
    found, _ = cluster
    store = ConfigMap("mim/models", found)
    stored = store.read()
    (entry,) = stored.config.model_config_list.config
    assert store.write(entry, stored)
    assert not store.write(entry, stored), "the revision is another by now"
    with pytest.raises(ConfigStoreError, match="has a models.config already"):
        store.create("")
    with pytest.raises(ConfigStoreError, match="NAMESPACE/NAME"):
        ConfigMap("models", found)
    with pytest.raises(ConfigStoreError, match="cannot be used: Not Found"):
        ConfigMap("mim/models", Cluster([])).read()
