"""From an item's event to a vector that ranking uses, at a steady rate of events.

    mim bench freshness --data DATA --root ROOT      (the sample and the root of its run)

`mim serve` and `mim center watch` run as processes of their own.  Events are dropped as files at their due times,
each a new item with the picture and the title of some item of the shop; a client ranks the new items through the
Center until the ranker has scored them by their vector.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.ports import free_port
from benchmarks.redis_server import running_redis
from benchmarks.report import publish

TARGET = 2.0  # seconds, p95


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--rate", type=float, default=50.0, help="events a second")
    parser.add_argument("--events", type=int, default=1_500)
    arguments = parser.parse_args(words)
    details: dict[str, Any] = {"rate": arguments.rate, "events": arguments.events}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        details["lmdb, folder of files"] = measure(folder, arguments, str(folder / "center"), str(folder / "drops"))
        with running_redis(folder / "redis") as url:
            details["redis, stream"] = measure(folder, arguments, url, "redis-stream:items")
    worst = max(found["p95"] for found in details.values() if isinstance(found, dict))
    publish("freshness", worst, "seconds, p95", TARGET, details, less_is_better=True)


def measure(folder: Path, arguments: argparse.Namespace, address: str, events: str) -> dict[str, Any]:
    """One store and one kind of source."""
    from serving.client import MimClient
    from serving.releases import find_snapshot
    from serving.representation_center.center import open_center
    from serving.representation_center.loading import load_snapshot
    from serving.storage import to_local

    port = free_port()
    server = f"127.0.0.1:{port}"
    mim = [sys.executable, "-m", "tfx_pipeline.cli"]
    log = (folder / "log").open("a")
    with open_center(address) as center:
        manifest = load_snapshot(center, to_local(find_snapshot(arguments.root)))
        center.promote(manifest.encoder_version)
        serve = subprocess.Popen(
            [*mim, "serve", "--models", str(arguments.root / "models"), "--port", str(port)], stdout=log, stderr=log
        )
        watch = subprocess.Popen(
            [*mim, "center", "watch", "--center", address, "--events", events, "--server", server],
            stdout=log,
            stderr=log,
        )
        try:
            with MimClient(server, timeout=20, center=center) as client:
                client.wait_until_available("mim_encoder", "mim_ranker", seconds=120)
                time.sleep(3.0)
                return follow(client, center, arguments, events)
        finally:
            for process in (watch, serve):
                process.terminate()
                process.wait(30)
            log.close()


def follow(client: Any, center: Any, arguments: argparse.Namespace, events: str) -> dict[str, Any]:
    """Sends the events and ranks their items until each is scored by its vector."""
    shop = pq.read_table(arguments.data / "items.parquet", columns=["item_id", "title", "image"]).to_pylist()
    history = [row["item_id"] for row in shop[:20]]
    due: dict[str, float] = {}
    begin = time.time() + 0.5

    def send() -> None:
        for number in range(arguments.events):
            at = begin + number / arguments.rate
            time.sleep(max(0.0, at - time.time()))
            item_id, row = f"new{number}", shop[number % len(shop)]
            due[item_id] = at  # when it should have happened: a late sender hides nothing
            title = f"{row['title']} {number}"
            if events.startswith("redis-stream:"):
                center.client.xadd("items", {"item_id": item_id, "title": title, "image": row["image"] or b""})
                continue
            image = base64.b64encode(row["image"] or b"").decode()
            part = Path(events) / f".{item_id}"
            part.write_text(json.dumps({"item_id": item_id, "title": title, "image": image}))
            part.rename(Path(events) / f"{item_id}.json")

    sender = threading.Thread(target=send)
    sender.start()
    seconds: list[float] = []
    waiting: dict[str, float] = {}
    plain: float | None = None
    asked: list[float] = []
    deadline = begin + arguments.events / arguments.rate + 60
    while len(seconds) < arguments.events and time.time() < deadline:
        for item_id in [item_id for item_id in list(due) if item_id not in waiting]:
            waiting[item_id] = due[item_id]
        open_ones = [item_id for item_id, at in waiting.items() if at > 0][:200]
        if not open_ones:
            time.sleep(0.005)
            continue
        if plain is None:  # the score of an item that has no vector
            plain = client.rank("u00001", history, ["an item nobody has"])[0].score
        started = time.time()
        for scored in client.rank("u00001", history, open_ones):
            if abs(scored.score - plain) > 1e-7:
                seconds.append(time.time() - waiting[scored.item_id])
                waiting[scored.item_id] = 0.0
        asked.append(time.time() - started)
        time.sleep(0.02)
    sender.join()
    return {
        "usable": len(seconds),
        "p50": round(float(np.percentile(seconds, 50)), 3),
        "p95": round(float(np.percentile(seconds, 95)), 3),
        "p99": round(float(np.percentile(seconds, 99)), 3),
        "longest": round(max(seconds), 3),
        "rank_p50_ms": round(float(np.percentile(asked, 50)) * 1e3, 1),
        "encoder": center.active()[0],
    }


if __name__ == "__main__":
    main()
