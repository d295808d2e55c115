"""Vectors a second out of the Representation Center, LMDB and Redis, at 100 thousand and a million items.

    mim bench center

A reader in the same process as nothing else asks for batches of 1,000 random items; Redis stands on loopback.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.redis_server import running_redis
from benchmarks.report import publish
from serving.representation_center.center import RepresentationCenter, Version, open_center

D, BATCH = 128, 1_000
TARGETS = {"lmdb": 500_000, "redis": 150_000}


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args(words)
    details: dict[str, Any] = {"dimension": D, "batch": BATCH, "targets": TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        for items in arguments.items:
            place = Path(folder) / f"lmdb-{items}"
            with open_center(str(place)) as center:
                found = measure(center, items, arguments.seconds)
            size = sum(file.stat().st_blocks * 512 for file in place.rglob("data.mdb"))
            details[f"lmdb {items}"] = {**found, "bytes_a_vector": round(size / items)}
        with running_redis(Path(folder) / "redis") as url:
            for items in arguments.items:
                with open_center(url) as center:
                    client = center.client  # type: ignore[attr-defined]
                    client.flushall()
                    before = client.info("memory")["used_memory"]
                    found = measure(center, items, arguments.seconds)
                    size = client.info("memory")["used_memory"] - before
                details[f"redis {items}"] = {**found, "bytes_a_vector": round(size / items)}
    slowest = {
        store: min(details[f"{store} {items}"]["vectors_per_second"] for items in arguments.items) for store in TARGETS
    }
    met = all(slowest[store] >= target for store, target in TARGETS.items())
    publish("center", slowest["lmdb"], "vectors/s (LMDB, the slower size)", TARGETS["lmdb"], details, met)


def measure(center: RepresentationCenter, items: int, seconds: float) -> dict[str, float]:
    """Fills a version and reads it."""
    rng = np.random.default_rng(0)
    center.add_version(Version("v1", "digest", D, "int8", ready=True))
    ids = [f"i{n:09d}" for n in range(items)]
    started = time.perf_counter()
    spent = 0.0
    for start in range(0, items, 20_000):
        part = ids[start : start + 20_000]
        vectors = rng.integers(-127, 128, (len(part), D)).astype(np.int8)
        hashes = [f"{n:032x}" for n in range(start, start + len(part))]
        began = time.perf_counter()
        center.put("v1", part, hashes, vectors, np.full(len(part), 3))
        spent += time.perf_counter() - began
    center.promote("v1")
    del ids  # a request brings ids of its own
    chosen = [[f"i{n:09d}" for n in rng.integers(0, items, BATCH)] for _ in range(300)]
    for batch in chosen[:50]:
        center.get(batch)
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        batch = chosen[len(times) % len(chosen)]
        began = time.perf_counter()
        found = center.get(batch)
        times.append(time.perf_counter() - began)
        assert found.mask.all()
    total = time.perf_counter() - started
    return {
        "vectors_per_second": round(len(times) * BATCH / total),
        "p50_ms": round(float(np.percentile(times, 50)) * 1e3, 3),
        "p99_ms": round(float(np.percentile(times, 99)) * 1e3, 3),
        "vectors_per_second_put": round(items / spent),
    }


if __name__ == "__main__":
    main()
