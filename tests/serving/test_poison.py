"""Broken events of forty kinds between good ones, and a watcher that is started anew: the good are stored, once each,
and the broken are parked with their reasons."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.redis_server import RedisServer
from serving.client import MimClient
from serving.embedded_server.server import EmbeddedServer
from serving.representation_center.center import RepresentationCenter, open_center
from serving.representation_center.events import EventSource, FolderEvents, RedisStreamEvents
from serving.representation_center.watch import Watcher
from tests.serving.conftest import version
from tests.tiny_encoder import export_tiny_encoder

D, GOOD, RESTARTS = 16, 400, 3
TRUNCATED = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(30)).decode()
# What a row of JSON may hold; each is about an item of its own.
ROWS: dict[str, Any] = {
    "no id": {"title": "x"},
    "null id": {"item_id": None, "title": "x"},
    "empty id": {"item_id": "", "title": "x"},
    "long id": {"item_id": "x" * 501},
    "id of many bytes": {"item_id": "ü" * 251},
    "NUL id": {"item_id": "\0"},
    "NUL inside an id": {"item_id": "a\0b"},
    "surrogate id": {"item_id": "\ud800"},
    "list id": {"item_id": [1, 2]},
    "object id": {"item_id": {"a": 1}},
    "fraction id": {"item_id": 1.5},
    "infinite id": {"item_id": float("inf")},
    "true id": {"item_id": True},
    "surrogate title": {"title": "\udfff"},
    "list title": {"title": ["a"]},
    "object text": {"text": {"a": 1}},
    "long text": {"text": "x" * (1 << 20 | 1)},
    "number as image": {"image": 5},
    "list as image": {"image": [1, 2]},
    "true as image": {"image": True},
    "object as image": {"image": {"b64": "AA=="}},
    "image not base64": {"image": "@@@"},
    "image of text": {"image": base64.b64encode(b"no picture").decode()},
    "image cut off": {"image": TRUNCATED},
    "image of noise": {"image": base64.b64encode(bytes(range(256))).decode()},
    "image_path out of the folder": {"image_path": "../../secret"},
    "image_path absolute": {"image_path": "/etc/hostname"},
    "image_path device": {"image_path": "/dev/zero"},
    "image_path missing": {"image_path": "gone.png"},
    "image_path folder": {"image_path": "done"},
    "image_path NUL": {"image_path": "a\0.png"},
    "time NaN": {"timestamp": float("nan")},
    "time infinite": {"timestamp": float("inf")},
    "time huge": {"timestamp": 10**400},
    "time negative": {"timestamp": -1},
    "time text": {"timestamp": "yesterday"},
    "time list": {"timestamp": [1]},
    "a number": 5,
    "a list": ["item_id", "x"],
    "text": "item_id",
    "null": None,
    "deep": "[" * 50_000,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MimClient, str]]:
    folder = tmp_path_factory.mktemp("encoder")
    name = export_tiny_encoder(folder / "models/mim_encoder/1")
    with EmbeddedServer(folder / "models", port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available("mim_encoder")
        yield client, name


def good(number: int) -> dict[str, Any]:
    return {"item_id": f"good{number}", "title": f"red mug {number % 50}"}


def poison(kind: str, number: int) -> Any:
    row = ROWS[kind]
    own = {} if kind == "no id" else {"item_id": f"bad{number}"}
    return {**own, **row} if isinstance(row, dict) else row


def work(center: RepresentationCenter, client: MimClient, open_source: Callable[[], EventSource]) -> None:
    """A watcher that is left and started anew three times, in the middle of its work."""
    for restart in range(RESTARTS + 1):
        watcher = Watcher(center, client, open_source())
        steps = 0
        while watcher.step():
            steps += 1
            if restart < RESTARTS and steps == 2:
                watcher._taken = watcher._source.poll(20)  # taken, and lost with the process
                break


def check(center: RepresentationCenter, broken: int) -> None:
    assert center.get([f"good{n}" for n in range(GOOD)], queue_misses=False).mask.all()
    assert center.stats().counts == {center.active()[0]: GOOD}
    parked = center.parked()
    assert len(parked) == broken
    assert all(parked.values())


def test_files_of_events(center: RepresentationCenter, encoder: tuple[MimClient, str], tmp_path: Path) -> None:
    client, name = encoder
    center.add_version(version(name, D))
    center.promote(name)
    drops, chance, kinds = tmp_path / "drops", random.Random(1), list(ROWS)
    drops.mkdir()
    (tmp_path / "secret").write_text("of another")
    rows = [good(n) for n in range(GOOD)]
    rows += [poison(kinds[n % len(kinds)], n) for n in range(GOOD)]
    lines = [row if isinstance(row, str) and row.startswith("[") else json.dumps(row) for row in rows]
    chance.shuffle(lines)
    for number, begin in enumerate(range(0, len(lines), 100)):
        (drops / f"{number}.jsonl").write_text("\n".join(lines[begin : begin + 100]))
    (drops / "half.json").write_text('{"item_id": ')
    (drops / "bad.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"item_id": ["p1"], "image": [b"\xff\xd8 no picture"]}), drops / "p.parquet")
    work(center, client, lambda: FolderEvents(drops))
    check(center, GOOD + 1)
    assert not [path for path in drops.iterdir() if path.is_file()]
    assert {path.name for path in (drops / "parked").iterdir()} == {
        *("half.json", "half.json.reason", "bad.parquet", "bad.parquet.reason")
    }


def test_a_stream_of_events(redis_server: RedisServer, encoder: tuple[MimClient, str], tmp_path: Path) -> None:
    client, name = encoder
    with open_center(redis_server.url) as center:
        center.client.flushall()  # type: ignore[attr-defined]
    with open_center(redis_server.url) as center:
        center.add_version(version(name, D))
        center.promote(name)
        redis = center.client  # type: ignore[attr-defined]
        broken: list[dict[Any, Any]] = [
            {"title": "x"},
            {"item_id": ""},
            {"item_id": "x" * 501},
            {"item_id": "a\0b"},
            {"item_id": "b1", "image": "no picture"},
            {"item_id": "b2", "image_path": "/etc/hostname"},
            {"item_id": "b3", "timestamp": "soon"},
            {"item_id": "b4", "text": "x" * (1 << 20 | 1)},
            {b"\xff\xfe": b"\xff"},
        ]
        for number in range(GOOD):
            redis.xadd("news", good(number))
            row = dict(broken[number % len(broken)])
            if str(row.get("item_id", "")).startswith("b"):
                row["item_id"] = f"bad{number}"
            redis.xadd("news", row)
        work(center, client, lambda: RedisStreamEvents(redis, "news", "one"))
        check(center, GOOD)
        assert redis.xlen("news") == 0
        assert redis.xpending("news", "encoder")["pending"] == 0
