"""Both stores behind one fixture, so that every test of the Center is a test of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.redis_server import RedisServer
from serving.representation_center.center import RepresentationCenter, Version, open_center


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(params=["lmdb", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty Center lies."""
    if request.param == "lmdb":
        return str(tmp_path / "center")
    server: RedisServer = request.getfixturevalue("redis_server")
    center = open_center(server.url)
    center.client.flushall()  # type: ignore[attr-defined]
    center.close()
    return server.url


@pytest.fixture
def center(address: str) -> Iterator[RepresentationCenter]:
    with open_center(address) as opened:
        yield opened


def version(name: str, dimension: int = 8, dtype: str = "int8", digest: str = "") -> Version:
    return Version(name, digest or f"digest of {name}", dimension, dtype, ready=True)


def unit_vectors(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def hashes(count: int, seed: int = 0) -> list[str]:
    return [f"{seed:016x}{n:016x}" for n in range(count)]
