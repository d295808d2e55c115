"""The local runner holds its root, and its commands show what was released."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.releases import Release, ReleaseStore
from tfx_pipeline.cli import main
from tfx_pipeline.runners import local
from tfx_pipeline.runners.root import Root


def _hold(root: str, held: Event, ended: Event) -> None:
    with Root(root).written():
        held.set()
        ended.wait(60)


def test_a_second_run_on_a_root_is_refused_with_words(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, ended = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), held, ended))
    other.start()
    assert held.wait(60)
    told = rf"another process writes to {tmp_path} \(process {other.pid} on .*, since .*--root"
    with pytest.raises(local.RootBusyError, match=told), Root(tmp_path).written():
        pass
    other.kill()  # a killed run holds nothing
    other.join()
    with Root(tmp_path).written():
        assert "process" in (tmp_path / ".run.lock").read_text()


def test_a_release_whose_parts_are_gone_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "encoder").mkdir()
    release = Release("a", "v", {"encoder": str(tmp_path / "encoder")})
    assert local._present(None) is None
    assert local._present(release) == release
    (tmp_path / "encoder").rmdir()
    assert local._present(release) is None
    assert f"{tmp_path / 'encoder'} is gone. Was the root moved?" in capsys.readouterr().err


def test_releases_on_the_command_line(tmp_path: Path) -> None:
    def mim(*words: str) -> str:
        done = CliRunner().invoke(main, ["releases", *words, "--root", str(tmp_path)])
        return f"{done.exit_code} {done.output}"

    assert "has no release yet: `mim run` makes one" in mim("list")
    assert "1 Error" in mim("show")
    assert "no earlier release to go back to" in mim("rollback")
    store, versions = ReleaseStore(tmp_path), []
    for name in "ab":
        model = tmp_path / name / "mim_ranker"
        model.mkdir(parents=True)
        (model / "saved_model.pb").write_text(name)
        versions.append(store.publish(Release(name, f"encoder-{name}"), {"mim_ranker": model}).version)
    listed = mim("list")
    assert all(f"encoder-{name}" in listed for name in "ab")
    assert f"is current, the files of {versions[0]}" in mim("rollback")
    assert json.loads(mim("show")[2:])["id"] == "a"
    assert json.loads(mim("show", str(versions[1]))[2:])["id"] == "b"
    assert "1 error:" in mim("promote", "5")
    assert "has no release 5" in mim("promote", "5")
    assert "is current" in mim("promote", str(versions[1]))
    assert [one["id"] for one in json.loads(mim("list", "--json")[2:])] == ["b", "a", "b", "a"]
