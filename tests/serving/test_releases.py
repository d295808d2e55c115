"""Releases: all models at once or none, whatever happens to the process that publishes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.embedded_server import version_folders
from serving.embedded_server.config_files import models_below, read_model_config
from serving.releases import Release, ReleaseError, ReleaseStore, find_snapshot

NAMES = ("mim_encoder", "mim_ranker", "mim_retrieval")


def made(folder: Path, text: str, files: int = 3) -> dict[str, Path]:
    """Three models whose files say which release they are of."""
    models = {name: folder / text / name for name in NAMES}
    for model in models.values():
        (model / "variables").mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (model / f"variables/part{number}").write_text(text)
    return models


def publish(root: Path, text: str) -> Release:
    sources = {"embeddings": str(root / text / "embeddings")}
    return ReleaseStore(root).publish(Release(text, f"encoder {text}", sources, "better"), made(root / "made", text))


def served(root: Path) -> set[str]:
    """What the models' files say that a server loads."""
    folders = [version_folders.aspired(model) for model in models_below(root / "models") if model.name in NAMES]
    assert all(len(versions) == 1 for versions in folders)
    found = [list((folder / "variables").iterdir()) for versions in folders for folder in versions.values()]
    assert [len(files) for files in found] == [3] * len(NAMES)
    return {file.read_text() for files in found for file in files}


def test_the_newest_release_is_served(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    assert (store.list(), store.current()) == ([], None)
    first, second = publish(tmp_path, "a"), publish(tmp_path, "b")
    assert second.version > first.version
    assert store.current() == second
    assert [release.id for release in store.list()] == ["b", "a"]
    assert served(tmp_path) == {"b"}
    config = read_model_config(tmp_path / "models/models.config").model_config_list.config
    assert {model.name for model in config} == set(NAMES)
    assert {tuple(model.model_version_policy.specific.versions) for model in config} == {(second.version,)}


def test_equal_models_are_no_new_release(tmp_path: Path) -> None:
    first = publish(tmp_path, "a")
    (tmp_path / "models/models.config").unlink()
    assert publish(tmp_path, "a") == first
    assert served(tmp_path) == {"a"}
    assert len(ReleaseStore(tmp_path).list()) == 1


def test_a_b_a_serves_a_to_every_reader(tmp_path: Path) -> None:
    first = publish(tmp_path, "a")
    publish(tmp_path, "b")
    third = publish(tmp_path, "a")
    assert (third.id, third.version > first.version) == ("a", True)
    assert served(tmp_path) == {"a"}
    (tmp_path / "models/models.config").unlink()  # a server that takes the newest version
    assert served(tmp_path) == {"a"}


def test_rollback_and_promote(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    first = publish(tmp_path, "a")
    with pytest.raises(ReleaseError, match="no earlier release"):
        store.rollback()
    second = publish(tmp_path, "b")
    publish(tmp_path, "c")
    back = store.rollback()
    assert (back.id, back.restored_from) == ("b", second.version)
    assert served(tmp_path) == {"b"}
    again = store.rollback()
    assert (again.id, again.restored_from) == ("a", first.version)
    with pytest.raises(ReleaseError, match="no earlier release"):
        store.rollback()
    with pytest.raises(ReleaseError, match="release b was rolled back and is not published again"):
        publish(tmp_path, "b")
    assert served(tmp_path) == {"a"}
    assert store.promote(second.version).restored_from == second.version
    assert publish(tmp_path, "b").id == "b"
    with pytest.raises(ReleaseError, match="has no release 7; it has"):
        store.promote(7)
    shutil.rmtree(tmp_path / f"models/{NAMES[0]}/{first.version}")
    with pytest.raises(ReleaseError, match=f"release {first.version} cannot be served again: .*{NAMES[0]}"):
        store.promote(first.version)
    assert served(tmp_path) == {"b"}


def versions(root: Path, name: str) -> set[str]:
    return {folder.name for folder in (root / "models" / name).iterdir()}


def test_what_was_begun_and_not_recorded_is_removed_and_nothing_else(tmp_path: Path) -> None:
    by_hand = tmp_path / "models/mim_ranker/1750000000"
    shutil.copytree(made(tmp_path / "made", "hand")["mim_ranker"], by_hand)
    (tmp_path / "models/other/3").mkdir(parents=True)
    first = publish(tmp_path, "a")
    begun = first.version + 100
    for name in NAMES[:2]:
        shutil.copytree(tmp_path / f"models/{name}/{first.version}", tmp_path / f"models/{name}/{begun}")
    (tmp_path / "models/mim_retrieval" / f".part-{begun}").mkdir()
    (tmp_path / "releases/publishing").write_text(json.dumps({"version": begun, "models": list(NAMES)}))
    (tmp_path / "models/models.config").write_text("old")
    ReleaseStore(tmp_path).recover()
    assert served(tmp_path) == {"a"}
    assert versions(tmp_path, "mim_encoder") == versions(tmp_path, "mim_retrieval") == {str(first.version)}
    assert versions(tmp_path, "mim_ranker") == {str(first.version), by_hand.name}
    assert (tmp_path / "models/other/3").is_dir()


def test_models_that_are_gone_are_published_again(tmp_path: Path) -> None:
    first = publish(tmp_path, "a")
    shutil.rmtree(tmp_path / f"models/mim_encoder/{first.version}")
    assert publish(tmp_path, "a").version > first.version
    assert served(tmp_path) == {"a"}


def test_a_publication_that_fails_changes_nothing(tmp_path: Path) -> None:
    first = publish(tmp_path, "a")
    models = {**made(tmp_path / "made", "b"), "mim_retrieval": tmp_path / "gone"}
    with pytest.raises(OSError, match="gone"):
        ReleaseStore(tmp_path).publish(Release("b", "encoder b"), models)
    assert all(versions(tmp_path, name) == {str(first.version)} for name in NAMES)
    assert ReleaseStore(tmp_path).current() == first
    assert served(tmp_path) == {"a"}


def test_paths_with_any_characters(tmp_path: Path) -> None:
    root = tmp_path / 'a "quoted" \\b path, ünï\n'
    root.mkdir()
    publish(root, "a")
    assert served(root) == {"a"}
    config = read_model_config(root / "models/models.config").model_config_list.config
    assert config[0].base_path == str(root / "models" / config[0].name)


def test_a_record_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    publish(tmp_path, "a")
    (tmp_path / "releases/9.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"9\.json is no record of a release"):
        ReleaseStore(tmp_path).list()
    (tmp_path / "releases/9.json").write_text(dataclasses.replace(Release("x", "y"), version=8).to_json())
    with pytest.raises(ReleaseError, match=r"9\.json is the record of version 8"):
        ReleaseStore(tmp_path).list()
    (tmp_path / "releases/9.json").write_text(Release("x", "y").to_json().replace('"version": 0', '"version": "9"'))
    with pytest.raises(ReleaseError, match=r"9\.json is no record of a release: version is '9'"):
        ReleaseStore(tmp_path).list()
    (tmp_path / "releases/9.json").write_bytes(b"\xff")
    with pytest.raises(ReleaseError, match=r"9\.json cannot be read"):
        ReleaseStore(tmp_path).list()
    newer = dataclasses.replace(Release("x", "y"), version=9).to_json().replace('"format": 1', '"format": 2')
    (tmp_path / "releases/9.json").write_text(newer)
    with pytest.raises(ReleaseError, match="a later version of MIM wrote it"):
        ReleaseStore(tmp_path).current()


def test_the_snapshot_of_the_current_release(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="neither a snapshot .* nor the root of a run"):
        find_snapshot(tmp_path)
    publish(tmp_path, "a")
    with pytest.raises(ReleaseError, match=r"a/embeddings, is gone: was .* moved\?"):
        find_snapshot(tmp_path)
    (tmp_path / "a/embeddings").mkdir(parents=True)
    (tmp_path / "a/embeddings/manifest.json").write_text("{}")
    assert find_snapshot(tmp_path) == tmp_path / "a/embeddings"


def _publish_many(root: str, name: str) -> None:
    for number in range(5):
        publish(Path(root), f"{name}{number}")


def test_two_processes_publish_one_after_the_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_publish_many, args=(str(tmp_path), name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    releases = ReleaseStore(tmp_path).list()
    assert len({release.version for release in releases}) == len(releases) == 10
    assert served(tmp_path) == {releases[0].id}


CHILD = """
import sys
from pathlib import Path
from tests.serving.test_releases import publish
print("ready", flush=True)
for number in range(10_000):
    publish(Path(sys.argv[1]), f"{sys.argv[2]}-{number}")
"""


def test_a_kill_at_any_moment_leaves_whole_releases(tmp_path: Path) -> None:
    rng = random.Random(0)
    publish(tmp_path, "a")
    for turn in range(20):
        words = [sys.executable, "-c", CHILD, str(tmp_path), str(turn)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        (text,) = served(tmp_path)  # of one release alone
        assert text in {release.id for release in ReleaseStore(tmp_path).list()[:2]}
        assert publish(tmp_path, f"after {turn}") == ReleaseStore(tmp_path).current()
        assert served(tmp_path) == {f"after {turn}"}
