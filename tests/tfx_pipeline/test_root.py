"""The root of runs on an object store, and what a process keeps of it on its own disk."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.storage import StagingArea
from serving.storage import as_path, find, remove_tree
from tests.object_stores import bucket
from tfx_pipeline.run_fns import places
from tfx_pipeline.runners.root import Root, RootBusyError


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    with bucket("memory") as top:
        yield f"{top}/run"


def write(root: Root, value: str) -> None:
    with sqlite3.connect(root.state / "metadata.sqlite") as store:
        store.execute("create table if not exists t (v)")
        store.execute("delete from t")
        store.execute("insert into t values (?)", (value,))


def read(root: Root) -> str:
    with sqlite3.connect(root.metadata) as store:
        return store.execute("select v from t").fetchone()[0]


def test_the_store_follows_the_root(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Root(address)
    with pytest.raises(FileNotFoundError, match="nothing was run there yet"):
        _ = here.metadata
    with here.written():
        write(here, "one")
        with pytest.raises(RootBusyError, match="another process writes to .*--root"), Root(address).written():
            pass
    assert "metadata.sqlite" in find(as_path(address))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))  # another machine
    there = Root(address)
    assert read(there) == "one"
    with there.written():
        write(there, "two")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    (here.state / "metadata.sqlite-journal").write_bytes(b"of a killed run")
    assert read(here) == "two"
    assert not (here.state / "metadata.sqlite-journal").exists()
    (here.state / "metadata.origin.json").write_text("{")  # half written
    assert read(here) == "two"

    write(here, "of a run that was killed before it copied the store")
    assert read(here).startswith("of a run that was killed")
    remove_tree(as_path(address))
    with pytest.raises(FileNotFoundError):
        _ = Root(address).metadata


def test_sigterm_ends_a_run_as_an_error_does(address: str) -> None:
    root = Root(address)
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with root.written():
            write(root, "left")
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    with pytest.raises(SystemExit):
        run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert read(root) == "left"


def test_checkpoints_are_found_by_another_process(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever folder its copies of the inputs lie in."""
    found = []
    for name in ("one", "other"):
        area = StagingArea(str(tmp_path / name))
        monkeypatch.setattr(places, "staging_area", lambda area=area: area)
        monkeypatch.setattr("components.storage.staging_area", lambda area=area: area)
        local = {part: area.new(f"{address}/{part}") for part in ("items", "run/1/model_run", "pairs")}
        given = SimpleNamespace(
            custom_config={"catalogue": local["items"], "csft": {"epochs": 1}},
            train_files=[f"{local['pairs']}/Split-train/*"],
            base_model=None,
            transform_graph_path="",
            model_run_dir=local["run/1/model_run"],
        )
        checkpoints = places.Checkpoints(given, "csft")
        found.append((str(checkpoints._copy._location), checkpoints.files.fingerprint))
        if name == "one":
            checkpoints.files.folder.mkdir(parents=True, exist_ok=True)
            (checkpoints.files.folder / "checkpoint.npz").write_bytes(b"1")
            assert checkpoints.files.on_write is not None
            checkpoints.files.on_write()
    assert found[0] == found[1]
    assert (checkpoints.files.folder / "checkpoint.npz").read_bytes() == b"1"
    checkpoints.delete()
    assert not [name for name in find(as_path(address)) if "checkpoint" in name]
