"""Files, locks and copies on a local disk and on object stores."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from upath import UPath

from serving import locks, storage
from serving.embedded_server.remote_models import RemoteModels
from serving.locks import LockedError, locked
from serving.releases import Release, ReleaseError, ReleaseStore, find_snapshot
from serving.storage import as_path, copy_tree, create_text, facts, find, is_local, remove_tree
from tests.object_stores import bucket

WHERE = ("local", "memory", "s3", "gs")


@pytest.fixture(params=WHERE, scope="module")
def top(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path_factory.mktemp("top"))
        return
    with bucket(request.param) as address:
        yield address


@pytest.fixture
def folder(top: str, request: pytest.FixtureRequest) -> UPath:
    return as_path(top) / f"of-{abs(hash(request.node.name))}"


def model(folder: UPath, text: str) -> UPath:
    for name in ("saved_model.pb", "variables/variables.index", "a b/ü.txt"):
        storage.write_text(folder / name, text)
    return folder


def test_files_are_found_by_their_relative_names(folder: UPath) -> None:
    assert find(folder) == {}
    model(folder / "m", "x")
    assert list(find(folder)) == ["m/a b/ü.txt", "m/saved_model.pb", "m/variables/variables.index"]
    assert list(find(folder / "m/variables")) == ["variables.index"]
    model(folder / "m2", "x")  # a name that begins like the other
    assert len(find(folder / "m")) == 3
    remove_tree(folder / "m")
    assert list(find(folder / "m")) == []
    assert len(find(folder / "m2")) == 3
    remove_tree(folder / "m")  # nothing is there


def test_facts_change_with_the_file(folder: UPath) -> None:
    assert facts(folder / "f") == {}
    storage.write_text(folder / "f", "one")
    first = facts(folder / "f")
    assert first == facts(folder / "f")
    storage.write_text(folder / "f", "three")
    assert facts(folder / "f") != first
    assert (folder / "f").read_text() == "three"


def test_a_file_is_created_once(folder: UPath) -> None:
    assert create_text(folder / "once", "a")
    assert not create_text(folder / "once", "b")
    assert (folder / "once").read_text() == "a"


def test_folders_are_copied_from_anywhere_to_anywhere(folder: UPath, tmp_path: Path) -> None:
    there = model(folder / "there", "x")
    here = as_path(tmp_path / "here")
    copy_tree(there, here)
    copy_tree(here, folder / "back")
    copy_tree(folder / "back", folder / "again")
    other = as_path("memory://other")
    copy_tree(folder / "again", other / "m")
    names = list(find(there))
    for copy in (here, folder / "back", folder / "again", other / "m"):
        assert list(find(copy)) == names
        assert {(copy / name).read_text() for name in names} == {"x"}
    remove_tree(other)


def test_a_lock_is_held_by_one(folder: UPath) -> None:
    with locked(folder, wait=0.0):
        with pytest.raises(LockedError, match=r"another process writes to .* \(process \d+ on .*, since "):
            locked(folder, wait=0.1).__enter__()
        with locked(folder, "other", wait=0.0):
            pass
    with locked(folder, wait=0.0):
        pass
    if not is_local(folder):
        assert len(find(folder)) == 2, "the file of each lock's last lease stays, so that no number comes twice"


def _hold(folder: str, held: Event) -> None:
    with locked(as_path(folder)):
        held.set()
        time.sleep(60)


def test_a_lease_of_a_killed_process_ends(tmp_path: Path) -> None:
    with bucket("s3") as address:
        folder, context = as_path(f"{address}/held"), multiprocessing.get_context("spawn")
        held = context.Event()
        process = context.Process(target=_hold, args=(str(folder), held))
        process.start()
        assert held.wait(60)
        with pytest.raises(LockedError), locked(folder, wait=0.5):
            pass
        process.kill()
        process.join()
        with locked(folder, wait=5.0):
            assert len(find(folder)) == 1


def test_a_lease_of_another_machine_ends_when_it_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket("memory") as address:
        folder = as_path(f"{address}/held")
        storage.write_text(
            folder / ".lock-7", json.dumps({"host": "h", "process": 1, "since": 1, "until": time.time() + 1.5})
        )
        with pytest.raises(LockedError, match="process 1 on h"), locked(folder, wait=0.0):
            pass
        with locked(folder, wait=10.0):
            assert list(find(folder)) == [".lock-8"]
        storage.write_text(folder / ".lock-9", "broken")
        with pytest.raises(LockedError, match="just started"), locked(folder, wait=0.0):
            pass


def test_leases_exclude(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four take it in turns as fast as they can."""
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: None)
    inside, overlaps, taken = [0], [0], [0]

    def work(folder: UPath) -> None:
        ends = time.monotonic() + 2.0
        while time.monotonic() < ends:
            with locked(folder, wait=30.0):
                inside[0] += 1
                overlaps[0] += inside[0] > 1
                taken[0] += 1
                inside[0] -= 1

    with bucket("gs") as address:
        threads = [threading.Thread(target=work, args=(as_path(f"{address}/held"),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert taken[0] > 5
    assert overlaps[0] == 0


def test_a_lease_that_another_took_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    with bucket("memory") as address:
        folder = as_path(f"{address}/held")
        with locked(folder) as check:
            check()
            storage.write_text(folder / ".lock-2", "{}")
            time.sleep(0.4)
            with pytest.raises(LockedError, match="was not renewed.*nothing more is written"):
                check()
        assert (folder / ".lock-2").read_text() == "{}"


def test_a_store_that_cannot_be_asked_is_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket("memory") as address:
        path = storage.as_path(f"{address}/x")
        assert storage.kind(path) is None
        storage.write_text(path / "y", "1")
        assert (storage.kind(path), storage.kind(path / "y")) == ("directory", "file")

        def refuse(*_: object, **__: object) -> None:
            raise TimeoutError("503")

        monkeypatch.setattr(type(path.fs), "info", refuse)
        with pytest.raises(TimeoutError):
            storage.kind(path / "y")


def test_locations() -> None:
    for address in ("memory://b", "memory://b/"):
        assert str(as_path(address)).rstrip("/") == "memory://b"
    assert str(as_path("memory://b/run/")) == "memory://b/run"
    assert as_path("file:///a b") == Path("/a b")
    for broken, why in (
        ("s3:/b/x", "two slashes"),
        ("memory://b/a*", "has none of"),
        ("file://host/x", "file:///PATH"),
    ):
        with pytest.raises(ValueError, match=why):
            as_path(broken)


def test_a_version_that_goes_while_it_is_copied_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket("memory") as address:
        folder = as_path(address) / "run"
        store, sources = ReleaseStore(folder), {"m": model(folder / "made", "a")}
        store.publish(Release("a", "e"), sources)
        whole = storage.download

        def half(source: UPath, target: Path) -> None:
            whole(source, target)
            (target / "variables/variables.index").unlink()

        monkeypatch.setattr(storage, "download", half)
        with pytest.raises(FileNotFoundError, match="was removed while it was copied"):
            RemoteModels(folder / "models", tmp_path)
        assert not any(path.is_file() for path in tmp_path.rglob("*"))
        monkeypatch.undo()
        RemoteModels(folder / "models", tmp_path)
        assert len(list(tmp_path.rglob("saved_model.pb"))) == 1


def test_a_lease_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.4)
    with bucket("memory") as address:
        folder = as_path(f"{address}/held")
        with locked(folder):
            time.sleep(1.0)
            assert json.loads((folder / ".lock-1").read_text())["until"] > time.time()


def test_releases(folder: UPath, tmp_path: Path) -> None:
    store = ReleaseStore(folder)
    assert store.current() is None
    names = ("mim_encoder", "mim_ranker")

    def publish(text: str) -> Release:
        models = {name: model(folder / "made" / text / name, text) for name in names}
        storage.write_text(folder / "made" / text / "snapshot/manifest.json", "{}")
        return store.publish(Release(text, "e", {"embeddings": str(folder / "made" / text / "snapshot")}), models)

    first, second = publish("a"), publish("b")
    assert publish("b") == second
    assert [release.id for release in store.list()] == ["b", "a"]
    assert find_snapshot(folder) == folder / "made/b/snapshot"
    config = (folder / "models/models.config").read_text()
    assert f'base_path: "{folder}/models/mim_ranker"' in config
    assert f"versions: {second.version}" in config
    restored = store.rollback()
    assert (restored.id, restored.restored_from) == ("a", first.version)
    with pytest.raises(ReleaseError, match="was rolled back"):
        publish("b")

    # A process was killed while it published: what it left goes, what is served stays.
    storage.write_text(folder / "releases/publishing", json.dumps({"version": 2 * restored.version, "models": names}))
    model(folder / f"models/mim_encoder/{2 * restored.version}", "half")
    store.recover()
    assert store.current() == restored
    assert not find(folder / f"models/mim_encoder/{2 * restored.version}")
    assert not (folder / "releases/publishing").exists()

    copy = RemoteModels(folder / "models", tmp_path)
    assert [path.name for path in (tmp_path / "mim_ranker").iterdir()] == [str(restored.version)]
    assert (tmp_path / f"mim_ranker/{restored.version}/saved_model.pb").read_text() == "a"
    assert f'base_path: "{tmp_path}/mim_ranker"' in (tmp_path / "models.config").read_text()
    newest = publish("c")
    copy.copy()
    kept = {path.name for path in (tmp_path / "mim_ranker").iterdir()}
    assert kept == {str(restored.version), str(newest.version)}, "a server may still look at the file of before"
    copy.copy()
    assert [path.name for path in (tmp_path / "mim_ranker").iterdir()] == [str(newest.version)]
    with pytest.raises(FileNotFoundError, match="nothing was released there yet"):
        RemoteModels(folder / "nothing", tmp_path)
