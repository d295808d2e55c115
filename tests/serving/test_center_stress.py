"""Readers that never pause, while versions change, writers are killed and the store is restarted.

A vector here says what it is: it is made from its version's and its item's number, so a reader can tell whether
what it got is right.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.synchronize
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.redis_server import RedisServer
from serving.representation_center.center import CenterUnavailable, RepresentationCenter, open_center
from tests.serving.conftest import version

D, ITEMS = 16, 400
VERSIONS = {"v1": 1, "v2": 2}
READERS, SWITCHES, KILLS = 4, 20, 20


def truth(name: str, items: np.ndarray) -> np.ndarray:
    """int8 [n, D]: the vectors of items in a version."""
    return ((items[:, None] * 7 + np.arange(D) * 3 + VERSIONS[name] * 11) % 251 - 125).astype(np.int8)


def item_ids(items: np.ndarray) -> list[str]:
    return [f"i{n}" for n in items]


def put(center: RepresentationCenter, name: str, items: np.ndarray) -> None:
    hashes = [f"{n:032x}" for n in items]
    center.put(name, item_ids(items), hashes, truth(name, items), np.full(len(items), 3))


def read_without_pause(
    address: str, seed: int, begun: Any, stop: multiprocessing.synchronize.Event, answers: Any
) -> None:
    rng = np.random.default_rng(seed)
    told = {"reads": 0, "wrong": 0, "missing": 0, "away": 0, "versions": set()}
    with open_center(address) as center:
        while not stop.is_set():
            items = rng.integers(0, ITEMS, 32)
            try:
                found = center.get(item_ids(items), queue_misses=False)
            except CenterUnavailable:
                told["away"] += 1
                continue
            told["reads"] += 1
            if told["reads"] == 1:
                begun.release()
            told["versions"].add(found.version)
            told["missing"] += int((~found.mask).sum())
            right = np.rint(found.vectors * 127).astype(np.int8) == truth(found.version, items)
            told["wrong"] += int((~right.all(axis=1) & found.mask).sum())
    answers.put({**told, "versions": sorted(told["versions"])})


WRITER = """
import sys
import numpy as np
from serving.representation_center.center import open_center
from tests.serving.test_center_stress import ITEMS, VERSIONS, item_ids, put
address, start = sys.argv[1], int(sys.argv[2])
with open_center(address) as center:
    step = start
    while True:  # new items one by one, and the old ones again
        items = np.array([ITEMS + step])
        center.enqueue(item_ids(items + 100_000))
        for name in VERSIONS:
            put(center, name, items)
            put(center, name, np.random.default_rng(step).integers(0, ITEMS, 64))
        print(step, flush=True)
        step += 1
"""


def kill_writers(address: str, times: int) -> tuple[int, int]:
    """Starts writers and kills each at a random moment; returns (kills, steps that a writer said were stored)."""
    chance, step = random.Random(5), 0
    for _ in range(times):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, address, str(step)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        said = writer.stdout.readline()  # it is at work
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read()
        writer.wait()
        whole = [line for line in said.splitlines() if line.strip()]
        step = int(whole[-1]) + 1
    return times, step


def test_no_reader_is_ever_wrong_and_nothing_is_lost(
    address: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    is_redis = address.startswith("redis")
    context = multiprocessing.get_context("spawn")
    begun, stop, answers = context.Semaphore(0), context.Event(), context.Queue()
    with open_center(address) as center:
        for name in VERSIONS:
            center.add_version(version(name, D))
            put(center, name, np.arange(ITEMS))
        center.promote("v1")
        readers = [
            context.Process(target=read_without_pause, args=(address, seed, begun, stop, answers))
            for seed in range(READERS)
        ]
        for reader in readers:
            reader.start()
        for _ in readers:
            assert begun.acquire(timeout=60)
        for turn in range(SWITCHES):
            if turn % 2:
                center.rollback()
            else:
                center.promote("v2")
            time.sleep(0.03)
        kills, steps = kill_writers(address, KILLS)
        restarts = 0
        if is_redis:
            server: RedisServer = request.getfixturevalue("redis_server")
            for kill in (False, True):
                server.stop(kill)
                server.start()
                restarts += 1
                time.sleep(0.5)
        stop.set()
        told = [answers.get(timeout=60) for _ in readers]
        for reader in readers:
            reader.join(60)

        lost = 0
        for name in VERSIONS:
            items = np.concatenate([np.arange(ITEMS), ITEMS + np.arange(steps)])
            found = center.get(item_ids(items), name, queue_misses=False)
            right = np.rint(found.vectors * 127).astype(np.int8) == truth(name, items)
            lost += int((~right.all(axis=1)).sum())
        queued = set(center.queued(10 * steps + 10))
        unqueued = [item for item in item_ids(np.arange(steps) + ITEMS + 100_000) if item not in queued]
    counts = {
        "store": "redis" if is_redis else "lmdb",
        "reads": sum(one["reads"] for one in told),
        "vectors read": 32 * sum(one["reads"] for one in told),
        "wrong": sum(one["wrong"] for one in told),
        "missing": sum(one["missing"] for one in told),
        "reads while away": sum(one["away"] for one in told),
        "switches": SWITCHES,
        "writers killed": kills,
        "restarts": restarts,
        "vectors written": 2 * steps,
        "lost": lost,
        "lost from the queue": len(unqueued),
    }
    with capsys.disabled():
        print(f"\n{json.dumps(counts)}")
    assert counts["wrong"] == counts["missing"] == counts["lost"] == counts["lost from the queue"] == 0
    assert {name for one in told for name in one["versions"]} == set(VERSIONS)
    assert min(one["reads"] for one in told) > 100
    assert steps >= KILLS


def test_every_queued_item_is_encoded_in_the_end_whatever_dies(tmp_path: Path) -> None:
    """Watchers are killed at random moments; after the last one has finished, every item has its vector."""
    from serving.client import MimClient
    from serving.embedded_server.server import EmbeddedServer
    from tests.tiny_encoder import export_tiny_encoder

    name = export_tiny_encoder(tmp_path / "models/mim_encoder/1")
    chance, count = random.Random(3), 1_000
    folder, drops = str(tmp_path / "center"), tmp_path / "drops"
    drops.mkdir()
    with open_center(folder) as center, EmbeddedServer(tmp_path / "models", port=0) as server:
        with MimClient(server.address, timeout=30) as client:
            client.wait_until_available("mim_encoder")
        center.add_version(version(name, D))
        center.promote(name)
        names = [f"n{n}" for n in range(count)]
        center.get(names)  # all are missed, and queued
        center.flush_misses()
        for start in range(0, count, 10):
            part = drops / f".{start}"
            lines = [json.dumps({"item_id": item, "title": f"red mug {item}"}) for item in names[start : start + 10]]
            part.write_text("\n".join(lines))
            part.rename(drops / f"{start:04d}.jsonl")
        watch = [sys.executable, "-m", "tfx_pipeline.cli", "center", "watch", "--center", folder, "--batch", "4"]
        watch += ["--events", str(drops), "--server", server.address]
        kills = 0
        while center.stats().queued:
            watcher = subprocess.Popen(watch, stderr=subprocess.PIPE, text=True)
            assert watcher.stderr is not None
            watcher.stderr.readline()
            if kills < KILLS:
                time.sleep(chance.uniform(0.0, 0.08))
                watcher.send_signal(signal.SIGKILL)
                kills += 1
            else:
                deadline = time.monotonic() + 60
                while center.stats().queued and time.monotonic() < deadline:
                    time.sleep(0.05)
                watcher.terminate()
            watcher.wait()
        assert kills == KILLS
        assert center.get(names).mask.all()
        assert center.stats().queued == 0
        assert center.parked() == {}
