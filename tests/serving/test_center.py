"""The Representation Center, on LMDB and on Redis alike."""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from serving.representation_center.center import (
    MAX_ATTEMPTS,
    CenterError,
    CenterUnavailable,
    RepresentationCenter,
    Version,
    open_center,
)
from serving.representation_center.loading import load_snapshot
from serving.representation_center.snapshot import SnapshotError, check_snapshot, shard_table, write_manifest
from serving.representation_center.vectors import store_vectors
from tests.serving.conftest import hashes, unit_vectors, version
from tfx_pipeline.cli import main

D = 8


def ids(count: int, prefix: str = "i") -> list[str]:
    return [f"{prefix}{n:04d}" for n in range(count)]


def fill(center: RepresentationCenter, name: str, count: int = 20, seed: int = 0, **facts: object) -> np.ndarray:
    center.add_version(version(name, **facts))  # type: ignore[arg-type]
    vectors = unit_vectors(count, seed=seed)
    center.put(name, ids(count), hashes(count, seed), vectors, np.full(count, 3))
    return vectors


def make_snapshot(folder: Path, name: str = "v1", count: int = 50, seed: int = 0, dtype: str = "int8") -> np.ndarray:
    folder.mkdir(parents=True)
    vectors = unit_vectors(count, seed=seed)
    stored = store_vectors(vectors, dtype)
    for shard, rows in enumerate(np.array_split(np.arange(count), 3)):
        table = shard_table(
            [ids(count)[r] for r in rows], [hashes(count, seed)[r] for r in rows], stored[rows], rows * 0 + 3
        )
        pq.write_table(table, folder / f"shard-{shard}.parquet")
    write_manifest(folder, name, f"digest of {name}", D, dtype)
    return vectors


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_what_is_put_comes_back(center: RepresentationCenter, dtype: str) -> None:
    vectors = fill(center, "a", dtype=dtype)
    center.promote("a")
    order = [7, 3, 19, 3]
    found = center.get([ids(20)[n] for n in order])
    assert found.version == "a"
    assert found.mask.all()
    assert found.stored.all()
    np.testing.assert_allclose(found.vectors, vectors[order], atol=0.6 / 127)
    assert center.content_hashes(["i0003", "nothing"], "a") == [hashes(20)[3], None]
    assert center.get([]).vectors.shape == (0, D)


def test_a_miss_is_a_mask_and_is_queued_once(center: RepresentationCenter) -> None:
    fill(center, "a")
    center.promote("a")
    center.put("a", ["empty"], hashes(1, 9), np.zeros((1, D)), np.array([0]))
    for _ in range(3):
        found = center.get(["i0001", "new", "empty", "newer", "new"])
        assert found.mask.tolist() == [True, False, False, False, False]
        assert found.stored.tolist() == [True, False, True, False, False]
        assert not np.any(found.vectors[1:])
    assert center.queued(10) == [], "a read writes nothing"
    center.flush_misses()
    assert sorted(center.queued(10)) == ["new", "newer"]
    assert center.queued(1) == [center.queued(10)[0]]
    center.get(["never"], queue_misses=False)
    assert center.enqueue(["new", "third"]) == 1
    assert center.stats().queued == 3
    center.put("a", ["new"], hashes(1, 5), unit_vectors(1), np.array([3]))
    assert sorted(center.queued(10)) == ["newer", "third"]
    center.park("third", "no picture")
    assert center.queued(10) == ["newer"]
    assert center.parked() == {"third": "no picture"}


def test_versions_live_side_by_side_and_switch_at_once(center: RepresentationCenter) -> None:
    nothing = center.get(["i0001"])
    assert (nothing.version, nothing.vectors.shape, nothing.mask.tolist()) == ("", (1, 0), [False])
    first, second = fill(center, "a", seed=0), fill(center, "b", seed=1)
    center.promote("a")
    center.promote("b")
    assert center.active() == ("b", "a")
    np.testing.assert_allclose(center.get(["i0004"]).vectors, second[[4]], atol=0.6 / 127)
    np.testing.assert_allclose(center.get(["i0004"], "a").vectors, first[[4]], atol=0.6 / 127)
    assert center.rollback() == "a"
    np.testing.assert_allclose(center.get(["i0004"]).vectors, first[[4]], atol=0.6 / 127)
    center.promote("a")  # already
    assert center.active() == ("a", "b")
    with pytest.raises(CenterError, match="encoder version c is not in the Center, which holds a, b"):
        center.promote("c")
    assert not center.get(["i0001"], "c").stored.any()


def test_another_open_center_sees_a_promote_at_once(center: RepresentationCenter, address: str) -> None:
    fill(center, "a", seed=0)
    fill(center, "b", seed=1)
    center.promote("a")
    with open_center(address) as other:
        for name in ("a", "b", "a", "b"):
            center.promote(name)
            assert other.get(["i0001"]).version == name


def test_old_versions_go_and_the_active_and_previous_stay(center: RepresentationCenter) -> None:
    for seed, name in enumerate("abcde"):
        fill(center, name, seed=seed)
    center.promote("a")
    center.promote("b")
    assert center.retain(3) == [], "the active and the previous version stay beside the newest"
    assert center.retain(1) == ["d", "c"]
    assert set(center.versions()) == {"a", "b", "e"}
    assert not center.get(["i0001"], "c").stored.any()
    center.flush_misses()
    assert center.stats().queued == 0, "what a version that is gone lacks is not encoded for it"
    fill(center, "c", seed=7)  # the name is free again
    assert center.get(["i0001"], "c").mask.all()
    assert center.stats().counts == {"a": 20, "b": 20, "e": 20, "c": 20}


def test_a_version_that_rankers_read_is_kept(center: RepresentationCenter) -> None:
    for seed, name in enumerate("abcd"):
        fill(center, name, seed=seed)
    center.promote("d")
    assert center.get(["i0001"], "a").mask.all()
    center.flush_misses()
    assert center.leased() == {"a"}
    assert center.retain(1) == ["c", "b"]
    center.lease("a", -1)
    assert center.retain(1) == ["a"]


def test_an_older_event_never_replaces_a_newer_one(center: RepresentationCenter) -> None:
    fill(center, "a")
    center.promote("a")
    old, new = unit_vectors(1, seed=7), unit_vectors(1, seed=8)

    def put(vector: np.ndarray, when: float) -> int:
        return center.put("a", ["x"], hashes(1), vector, np.array([3]), event_time=when)

    assert put(new, 200.0) == 1
    assert put(old, 100.0) == 0
    np.testing.assert_allclose(center.get(["x"]).vectors, new, atol=0.6 / 127)
    assert put(old, 200.0) == 1, "of two of one time the later call counts"
    both = center.put("a", ["x", "y"], hashes(2), np.concatenate([new, new]), np.full(2, 3), np.array([150.0, 50.0]))
    assert both == 1
    twice = center.put("a", ["z", "z"], hashes(2), np.concatenate([new, old]), np.full(2, 3), np.array([9.0, 5.0]))
    assert twice in (1, 2)
    np.testing.assert_allclose(center.get(["x", "z"]).vectors, np.concatenate([old, new]), atol=0.6 / 127)


def test_items_without_content_do_not_hold_up_the_queue(center: RepresentationCenter) -> None:
    now = time.time()
    center.enqueue(ids(64, "unknown"))
    center.enqueue(["known"])
    first = center.claim(64, now + 1)
    assert len(first) == 64
    second = center.claim(64, now + 1)
    assert len({*first, *second}) == 65, "each gets its turn"
    assert center.claim(64, now + 2) == []
    center.dequeue(["known"])
    turns, at = 1, now
    while center.stats().queued:
        at += 4_000
        turns += 1
        center.claim(100, at)
    assert turns == MAX_ATTEMPTS
    assert center.enqueue(["unknown0000"]) == 1, "asked for again, it gets new turns"


def test_the_queue_gives_first_what_waits_longest(center: RepresentationCenter) -> None:
    for name in ("first", "second", "third"):
        center.enqueue([name])
        time.sleep(0.002)
    assert center.queued(10) == ["first", "second", "third"]
    assert center.claim(2) == ["first", "second"]


def test_an_item_leaves_the_queue_when_its_vector_is_stored_and_not_before(
    center: RepresentationCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(center, "a")
    center.enqueue(["new"])

    def broken(*_: object) -> int:
        assert center.queued(10) == ["new"]
        raise CenterUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(center, "_write_newer", broken)
        with pytest.raises(CenterUnavailable):
            center.put("a", ["new"], hashes(1), unit_vectors(1), np.array([3]))
    assert center.queued(10) == ["new"]
    center.put("a", ["new"], hashes(1), unit_vectors(1), np.array([3]))
    assert center.queued(10) == []


def test_the_queue_is_bounded(center: RepresentationCenter, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lmdb_center", "redis_center"):
        monkeypatch.setattr(f"serving.representation_center.{module}.MAX_QUEUED", 10)
    assert center.enqueue(ids(25)) == 10
    assert center.enqueue(["more"]) == 0
    assert center.stats().queued == 10


def test_a_queue_that_cannot_be_written_costs_no_vector(
    center: RepresentationCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(center, "a")
    center.promote("a")

    def full(_: object) -> int:
        raise CenterError("OOM command not allowed when used memory > 'maxmemory'")

    monkeypatch.setattr(center._misses, "_enqueue", full)
    before = center.metrics.dropped_misses._value.get()
    assert center.get(["i0001", "new"]).mask.tolist() == [True, False]
    center.flush_misses()
    assert center.metrics.dropped_misses._value.get() == before + 1


def test_a_dropped_version_is_not_made_again_by_reading(center: RepresentationCenter, address: str) -> None:
    for name in "ab":
        fill(center, name)
    center.promote("b")
    with open_center(address) as other:
        assert other.get(["i0001"], "a").mask.all()
        assert center.retain(1) == ["a"]
        assert not other.get(["i0001"], "a").stored.any()
        with pytest.raises(CenterError, match="version a is not in the Center"):
            other.put("a", ["x"], hashes(1), unit_vectors(1), np.array([3]))
        assert set(other.versions()) == {"b"}
    if not address.startswith("redis"):
        assert len(list((Path(address) / "versions").iterdir())) == 1


def test_nothing_is_unmapped_under_a_reader(tmp_path: Path) -> None:
    """Threads read a version while it is dropped and made anew; a segmentation fault would end this process."""
    with open_center(str(tmp_path / "center")) as center:
        fill(center, "keep")
        center.promote("keep")
        fill(center, "b", 200)
        stop, wrong = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                found = center.get(ids(200), "b", queue_misses=False)
                if found.mask.any() and not found.mask.all() and len(found.mask) != 200:
                    wrong.append(found)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for _ in range(60):
            center._drop("b")
            fill(center, "b", 200)
        stop.set()
        for reader in readers:
            reader.join()
        assert not wrong


def _read_in_a_fork(center: RepresentationCenter, out: Path) -> None:
    out.write_text(" ".join(map(str, center.get(["i0002", "new"]).mask.tolist())))
    center.flush_misses()


def test_a_forked_process_reads_and_queues(center: RepresentationCenter, tmp_path: Path) -> None:
    fill(center, "a")
    center.promote("a")
    center.get(["i0001"])
    child = multiprocessing.get_context("fork").Process(target=_read_in_a_fork, args=(center, tmp_path / "out"))
    child.start()
    child.join(60)
    assert (tmp_path / "out").read_text() == "True False"
    assert center.get(["i0001"]).mask.all()
    assert center.queued(10) == ["new"]


def test_no_password_is_shown() -> None:
    with pytest.raises(CenterUnavailable) as refused:
        open_center("redis://user:s3cret@127.0.0.1:9/0")
    assert "s3cret" not in str(refused.value)


def test_wrong_vectors_are_refused(center: RepresentationCenter) -> None:
    fill(center, "a")
    with pytest.raises(CenterError, match=re.escape("are [items, 8]; received [1, 9] for 1 items")):
        center.put("a", ["x"], hashes(1), unit_vectors(1, 9), np.array([3]))
    with pytest.raises(CenterError, match="It is another encoder under the same name"):
        center.add_version(version("a", digest="other"))
    with pytest.raises(CenterError, match="version b is not in the Center"):
        center.put("b", ["x"], hashes(1), unit_vectors(1), np.array([3]))
    with pytest.raises(CenterError, match="1 to 500 bytes and does not begin with a NUL; received one of 501"):
        center.get(["x" * 501], "a")
    with pytest.raises(CenterError, match="1 to 64 letters"):
        version("no good")
    with pytest.raises(CenterError, match="a dtype among int8, float16"):
        version("a", dtype="float64")


def test_a_snapshot_is_loaded_promoted_and_loaded_again(center: RepresentationCenter, tmp_path: Path) -> None:
    vectors = make_snapshot(tmp_path / "one")
    told: list[tuple[int, int]] = []
    load_snapshot(center, tmp_path / "one", lambda done, of: told.append((done, of)))
    assert told[-1] == (50, 50)
    assert center.active() == (None, None)
    center.promote("v1")
    np.testing.assert_allclose(center.get(ids(50)).vectors, vectors, atol=0.6 / 127)

    event = unit_vectors(1, seed=5)
    center.put("v1", ["i0001"], hashes(1, 5), event, np.array([3]))  # after the snapshot was made
    load_snapshot(center, tmp_path / "one")
    np.testing.assert_allclose(center.get(["i0001"]).vectors, event, atol=0.6 / 127)
    assert center.stats().counts == {"v1": 50}


def test_a_broken_snapshot_touches_nothing(center: RepresentationCenter, tmp_path: Path) -> None:
    for name in ("digest", "dimension", "dtype"):
        make_snapshot(tmp_path / name)
    (tmp_path / "digest/shard-1.parquet").write_bytes(b"PAR1 something else")
    for name, change in (("dimension", {"dimension": 9}), ("dtype", {"dtype": "float16"})):
        file = tmp_path / name / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    rules = {
        "digest": "is missing or not the one the manifest names",
        "dimension": "does not hold vectors of 9 int8",
        "dtype": "does not hold vectors of 8 float16",
    }
    for name, rule in rules.items():
        with pytest.raises(SnapshotError, match=rule):
            load_snapshot(center, tmp_path / name)
    assert center.versions() == {}

    make_snapshot(tmp_path / "good")
    load_snapshot(center, tmp_path / "good")
    make_snapshot(tmp_path / "half", dtype="float16")
    with pytest.raises(CenterError, match="what came has digest .* and 8 float16"):
        load_snapshot(center, tmp_path / "half")
    assert check_snapshot(tmp_path / "half").dtype == "float16"


def test_a_version_that_is_being_loaded_cannot_be_promoted(center: RepresentationCenter) -> None:
    center.add_version(Version("new", "d", D, "int8"))
    with pytest.raises(CenterError, match="not wholly loaded yet"):
        center.promote("new")
    center.mark_ready("new")
    center.promote("new")


def test_there_must_be_something_to_go_back_to(center: RepresentationCenter) -> None:
    fill(center, "a")
    center.promote("a")
    with pytest.raises(CenterError, match="no previous version to go back to"):
        center.rollback()


def test_stats_say_how_fresh_it_is(center: RepresentationCenter) -> None:
    assert center.stats().newest is None
    before = time.time()
    fill(center, "a")
    center.promote("a")
    newest = center.stats().newest
    assert newest is not None
    assert before <= newest <= time.time()


def _read_in_another_process(address: str, out: str) -> None:
    with open_center(address) as center:
        Path(out).write_text(" ".join(map(str, center.get(["i0002"]).vectors[0])))


def test_other_processes_read_the_same(center: RepresentationCenter, address: str, tmp_path: Path) -> None:
    vectors = fill(center, "a")
    center.promote("a")
    process = multiprocessing.get_context("spawn").Process(
        target=_read_in_another_process, args=(address, str(tmp_path / "out"))
    )
    process.start()
    process.join(60)
    np.testing.assert_allclose(np.array((tmp_path / "out").read_text().split(), float), vectors[2], atol=0.6 / 127)


def test_the_folder_of_a_center_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(CenterError, match="holds no Representation Center; fill one with `mim center load`"):
        open_center(str(tmp_path), create=False)


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(CenterUnavailable, match="does not answer"):
        open_center("redis://127.0.0.1:9/0")


def test_commands(address: str, tmp_path: Path) -> None:
    def mim(*words: str) -> str:
        done = CliRunner().invoke(main, ["center", *words, "--center", address])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    make_snapshot(tmp_path / "one")
    make_snapshot(tmp_path / "two", "v2", seed=1)
    mim("load", str(tmp_path / "one"), "--promote")
    mim("load", str(tmp_path / "two"))
    assert json.loads(mim("get", "i0001,gone", "--json"))["vectors"]["gone"] is None
    assert "no vector" in mim("get", "i0001,gone")
    assert json.loads(mim("stats", "--json"))["active"] == "v1"
    mim("promote", "v2")
    assert json.loads(mim("get", "i0001", "--json"))["version"] == "v2"
    mim("rollback")
    told = mim("stats")
    assert "active" in told
    assert "previous" in told
    assert "0 items queued" in told
    done = CliRunner().invoke(main, ["center", "promote", "v9", "--center", address])
    assert done.exit_code == 1
    assert "version v9 is not in the Center, which holds v1, v2" in done.stderr


def _busy(center: RepresentationCenter, work: str, ended: list[BaseException]) -> None:
    try:
        while True:
            if work == "put":
                center.put("a", ids(50), hashes(50), unit_vectors(50), np.full(50, 3))
            elif work == "get":
                center.get([*ids(50), "new"])
            else:
                center.enqueue(ids(50, "q"))
                center.claim(10)
    except CenterError as error:
        ended.append(error)


@pytest.mark.parametrize("work", ["put", "get", "enqueue"])
def test_closing_under_threads_ends_them_with_an_error(work: str, tmp_path: Path) -> None:
    """A segmentation fault would end this process."""
    for turn in range(6):
        center = open_center(str(tmp_path / f"center{turn}"))
        fill(center, "a", 50)
        center.promote("a")
        ended: list[BaseException] = []
        threads = [threading.Thread(target=_busy, args=(center, work, ended)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        center.close()
        for thread in threads:
            thread.join(20)
        assert len(ended) == 4
        assert all("closed" in str(error) or "dropped" in str(error) for error in ended)


def _miss_in_a_fork(center: RepresentationCenter, out: Path) -> None:
    center.get(["of the child"])
    center.flush_misses()
    out.write_text("done")


def test_a_fork_while_misses_are_written_and_others_write(tmp_path: Path) -> None:
    with open_center(str(tmp_path / "center")) as center:
        fill(center, "a", 200)
        center.promote("a")
        stop = threading.Event()

        def busy() -> None:
            number = 0
            while not stop.wait(0.001):
                number += 1
                center.get([f"new{number}"])
                center.flush_misses()
                center.put("a", ids(200), hashes(200), unit_vectors(200), np.full(200, 3))

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for turn in range(8):
            out = tmp_path / f"out{turn}"
            child = multiprocessing.get_context("fork").Process(target=_miss_in_a_fork, args=(center, out))
            child.start()
            children.append((child, out))
            time.sleep(0.02)
        for child, out in children:
            child.join(20)
            assert child.exitcode == 0
            assert out.read_text() == "done"
        stop.set()
        for thread in threads:
            thread.join()


def _at_once(*works: Any) -> list[Any]:
    barrier = threading.Barrier(len(works))

    def run(work: Any) -> Any:
        barrier.wait()
        try:
            return work()
        except CenterError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_one_name_is_one_encoder_whoever_adds_it_first(center: RepresentationCenter) -> None:
    for turn in range(30):
        name = f"v{turn}"
        found = _at_once(
            lambda name=name: center.add_version(version(name, digest="one")),
            lambda name=name: center.add_version(version(name, digest="other")),
        )
        assert sum(isinstance(one, CenterError) for one in found) == 1


def test_a_version_that_is_dropped_is_neither_promoted_nor_ready(center: RepresentationCenter) -> None:
    fill(center, "keep")
    center.promote("keep")
    for _ in range(40):
        fill(center, "b")
        _at_once(lambda: center.promote("b"), lambda: center._drop("b"), lambda: center.mark_ready("b"))
        versions, (active, previous) = center.versions(), center.active()
        assert {active, previous} - {None} <= set(versions)
        assert "b" not in versions or center.get(["i0001"], "b").mask.all()
        center.promote("keep")
        fill(center, "c")
        center.promote("c")
        center.promote("keep")  # `b` is neither active nor previous again
        center._drop("b")


def test_values_that_are_not_finite_are_refused(center: RepresentationCenter) -> None:
    fill(center, "a")
    one = unit_vectors(1)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(CenterError, match="not finite"):
            center.put("a", ["x"], hashes(1), one, np.array([3]), event_time=wrong)
        with pytest.raises(CenterError, match="not finite"):
            center.put("a", ["x"], hashes(1), one * wrong, np.array([3]))
    with pytest.raises(CenterError, match="1 hashes"):
        center.put("a", ["x", "y"], hashes(1), unit_vectors(2), np.array([3, 3]))
