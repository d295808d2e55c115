"""The Center against a model of it: puts of any order of times, promotions, drops and queues, through two openings."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from benchmarks.redis_server import RedisServer
from serving.representation_center.center import CenterError, RepresentationCenter, open_center
from tests.serving.conftest import version

D, ITEMS, VERSIONS = 4, [f"i{n}" for n in range(5)], ["a", "b", "c"]
WHO = st.integers(0, 1)
NAMES = st.sampled_from(VERSIONS)


def vector(value: int) -> np.ndarray:
    """int8 [D]: says which put it is of."""
    return np.array([value % 120, value // 120 % 120, 1, 2], np.int8)


class CenterMachine(RuleBasedStateMachine):
    address = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.address = self.address or str(self.folder / "center")
        self.centers: list[RepresentationCenter] = []
        self.vectors: dict[str, dict[str, tuple[float, int]]] = {}
        self.created: list[str] = []
        self.active: str | None = None
        self.previous: str | None = None
        self.queue: set[str] = set()
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.centers = [open_center(self.address) for _ in range(2)]
        if self.address.startswith("redis"):
            self.centers[0].client.flushall()  # type: ignore[attr-defined]

    def teardown(self) -> None:
        for center in self.centers:
            center.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(who=WHO, name=NAMES)
    def add(self, who: int, name: str) -> None:
        self.centers[who].add_version(version(name, D))
        if name not in self.vectors:
            self.vectors[name] = {}
            self.created.append(name)
            time.sleep(0.001)  # versions are kept by age

    @rule(
        who=WHO,
        name=NAMES,
        rows=st.lists(st.tuples(st.sampled_from(ITEMS), st.integers(1, 6)), min_size=1, max_size=4),
    )
    def put(self, who: int, name: str, rows: list[tuple[str, int]]) -> None:
        values = [self.count + n for n in range(len(rows))]
        self.count += len(rows)
        arguments: Any = (
            [item for item, _ in rows],
            [f"{value:032x}" for value in values],
            np.stack([vector(value) for value in values]),
            np.full(len(rows), 3),
            np.array([float(at) for _, at in rows]),
        )
        if name not in self.vectors:
            with pytest.raises(CenterError):
                self.centers[who].put(name, *arguments)
            return
        self.centers[who].put(name, *arguments)
        for (item, at), value in zip(rows, values, strict=True):
            if item not in self.vectors[name] or self.vectors[name][item][0] <= at:
                self.vectors[name][item] = (float(at), value)
            self.queue.discard(item)

    @rule(who=WHO, name=NAMES)
    def read(self, who: int, name: str) -> None:
        self._check(self.centers[who].get(ITEMS, name, queue_misses=False), name)

    @rule(who=WHO, items=st.lists(st.sampled_from([*ITEMS, "x", "y"]), min_size=1, max_size=3))
    def miss(self, who: int, items: list[str]) -> None:
        found = self.centers[who].get(items)
        self.centers[who].flush_misses()
        if found.version:
            self.queue |= {item for item in items if item not in self.vectors[found.version]}

    @rule(who=WHO, name=NAMES)
    def promote(self, who: int, name: str) -> None:
        if name not in self.vectors:
            with pytest.raises(CenterError):
                self.centers[who].promote(name)
            return
        self.centers[who].promote(name)
        if name != self.active:
            self.active, self.previous = name, self.active or self.previous

    @rule(who=WHO, name=NAMES)
    def drop(self, who: int, name: str) -> None:
        if name not in self.vectors:
            return
        dropped = self.centers[who]._drop(name)
        assert dropped == (name not in (self.active, self.previous))
        if dropped:
            del self.vectors[name]
            self.created.remove(name)

    @rule(who=WHO, count=st.integers(1, 2))
    def retain(self, who: int, count: int) -> None:
        leased = self.centers[who].leased()
        stay = {self.active, self.previous, *self.created[::-1][:count], *leased}
        dropped = self.centers[who].retain(count)
        assert set(dropped) == set(self.vectors) - stay
        for name in dropped:
            del self.vectors[name]
            self.created.remove(name)

    @rule(who=WHO)
    def open_again(self, who: int) -> None:
        self.centers[who].close()
        self.centers[who] = open_center(self.address)

    @invariant()
    def agrees(self) -> None:
        for center in self.centers:
            assert center.active() == (self.active, self.previous)
            assert set(center.versions()) == set(self.vectors)
            assert set(center.queued(100)) == self.queue
            self._check(center.get(ITEMS, queue_misses=False), self.active)

    def _check(self, found: Any, name: str | None) -> None:
        held = self.vectors.get(name or "", {})
        assert found.mask.tolist() == [item in held for item in ITEMS]
        for row, item in enumerate(ITEMS):
            if item in held:
                np.testing.assert_array_equal(np.rint(found.vectors[row] * 127), vector(held[item][1]))


def run(machine: type[CenterMachine]) -> None:
    how = settings(max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=how)


def test_a_folder() -> None:
    run(CenterMachine)


def test_redis(redis_server: RedisServer) -> None:
    run(type("OnRedis", (CenterMachine,), {"address": redis_server.url}))
