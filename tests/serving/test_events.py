"""Events come at least once, and what cannot be read is told, not lost."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.redis_server import RedisServer
from serving.representation_center.center import open_center
from serving.representation_center.events import (
    Content,
    FolderEvents,
    RedisStreamEvents,
)
from serving.representation_center.snapshot import content_hash


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def drop(folder: Path, name: str, text: str) -> None:
    part = folder / f".{name}.part"
    part.write_text(text)
    part.rename(folder / name)


def test_json_lines_and_parquet_are_read(tmp_path: Path) -> None:
    source = FolderEvents(tmp_path)
    (tmp_path / "picture.png").write_bytes(picture("red"))
    image = base64.b64encode(picture("green")).decode()
    drop(tmp_path, "a.json", json.dumps({"item_id": "a", "title": "one", "image": image, "timestamp": 5}))
    drop(tmp_path, "b.jsonl", '{"item_id": "b", "text": "two"}\n\n{"item_id": "c", "image_path": "picture.png"}\n')
    pq.write_table(pa.table({"item_id": ["d"], "image": [picture("blue")]}), tmp_path / "c.parquet")
    events = {event.item_id: event for event in source.poll(10)}
    assert events["a"].content == Content(picture("green"), "one")
    assert events["a"].event_time == 5
    assert events["b"].content == Content(text="two")
    assert events["c"].content == Content(picture("red"))
    assert events["d"].content == Content(picture("blue"))
    assert events["d"].event_time == (tmp_path / "c.parquet").stat().st_mtime
    assert source.poll(10) == []
    assert (tmp_path / "a.json").exists()
    source.ack(events.values())
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["a.json", "b.jsonl", "c.parquet"]


def test_a_picture_in_another_form_is_the_same_content(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), "red").save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    drop(tmp_path, "a.json", json.dumps({"item_id": "a", "title": " one ", "image": image}))
    (event,) = FolderEvents(tmp_path).poll(10)
    assert event.content is not None
    assert Image.open(io.BytesIO(event.content.image)).mode == "RGB"
    assert event.content.title == "one"


def test_a_file_comes_again_until_all_of_it_is_settled(tmp_path: Path) -> None:
    drop(tmp_path, "a.jsonl", "\n".join(json.dumps({"item_id": f"i{n}", "title": "x"}) for n in range(5)))
    source = FolderEvents(tmp_path)
    first = source.poll(3)
    source.ack(first)
    assert (tmp_path / "a.jsonl").exists()
    again = FolderEvents(tmp_path).poll(10)  # after a crash
    assert [event.item_id for event in again] == [f"i{n}" for n in range(5)]
    source.ack(source.poll(3))
    assert source.poll(3) == []
    assert (tmp_path / "done/a.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"title": "x"}, "an event names its item in item_id"),
        ({"item_id": "a", "image": "not base64!"}, "base64"),
        ({"item_id": "a", "image_path": "gone.png"}, "names no regular file"),
        ({"item_id": "a", "image_path": "../secret.png"}, "leads out of the folder"),
        ({"item_id": "a", "image_path": "/etc/hostname"}, "leads out of the folder"),
        ({"item_id": "a", "image_path": "/dev/zero"}, "leads out of the folder"),
        ({"item_id": "a", "image_path": "a\0b"}, "null"),
        ({"item_id": "a", "image": 5}, "image is bytes"),
        ({"item_id": "a", "image": {"a": 1}}, "image is bytes"),
        ({"item_id": "x" * 501}, "1 to 500 bytes"),
        ({"item_id": "\0a"}, "1 to 500 bytes and no NUL"),
        ({"item_id": "\ud800"}, "surrogates not allowed"),
        ({"item_id": ["a"]}, "an id is text"),
        ({"item_id": 1.5}, "an id is"),
        ({"item_id": "a", "title": "half a \ud83d pair"}, "surrogates not allowed"),
        ({"item_id": "a", "title": ["a", "b"]}, "title is text"),
        ({"item_id": "a", "title": "x" * (1 << 20 | 1)}, "title has at most"),
        ({"item_id": "a", "timestamp": 10**400}, "too large"),
        ({"item_id": "a", "timestamp": -5}, "seconds since 1970"),
        ({"item_id": "a", "timestamp": "NaN"}, "seconds since 1970"),
        ({"item_id": "a", "timestamp": [1]}, "float"),
        ({"item_id": "a", "image": "bm8gcGljdHVyZQ=="}, "cannot identify image"),
        ({"item_id": "a", "timestamp": "soon"}, "could not convert"),
        (["a list"], "not an object"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(tmp_path: Path, row: object, error: str) -> None:
    drop(tmp_path, "a.json", json.dumps([row, {"item_id": "good", "title": "x"}]))
    bad, good = FolderEvents(tmp_path).poll(10)
    assert bad.content is None
    assert error in bad.error
    assert "a.json:0" in bad.error
    assert good.content is not None


def test_a_moment_to_come_counts_as_now(tmp_path: Path) -> None:
    drop(tmp_path, "a.json", json.dumps({"item_id": "a", "title": "x", "timestamp": 32_503_680_000}))
    (event,) = FolderEvents(tmp_path).poll(10)
    assert event.event_time <= time.time()


def test_files_of_any_content_are_parked_and_the_next_is_read(tmp_path: Path) -> None:
    drop(tmp_path, "deep.json", "[" * 100_000)
    drop(tmp_path, "deep.jsonl", "[" * 100_000 + "\n" + json.dumps({"item_id": "b", "title": "x"}))
    (tmp_path / "latin.jsonl").write_bytes(b'{"item_id": "caf\xe9"}\n{"item_id": "c", "title": "x"}\n')
    (tmp_path / "latin.json").write_bytes(b'{"item_id": "caf\xe9"}')
    drop(tmp_path, "number.json", "5")
    drop(tmp_path, ".upload.jsonl", '{"item_id": "half')
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "gone")
    drop(tmp_path, "z.json", json.dumps({"item_id": "last", "title": "x"}))
    source = FolderEvents(tmp_path)
    events = [event for _ in range(40) for event in source.poll(10)]
    assert {event.item_id for event in events if event.content is not None} == {"b", "c", "last"}
    assert {event.item_id for event in events if event.content is None} == {
        *("deep.jsonl:0", "latin.jsonl:0", "number.json:0")
    }
    source.ack(events)
    assert {path.name for path in (tmp_path / "parked").glob("*.json")} == {"deep.json", "latin.json"}
    assert (tmp_path / ".upload.jsonl").exists(), "a file that is still written is left alone"


def test_a_watcher_takes_over_all_that_a_dead_one_had(redis_server: RedisServer) -> None:
    client = open_center(redis_server.url).client  # type: ignore[attr-defined]
    client.delete("many")
    for n in range(500):
        client.xadd("many", {"item_id": f"i{n}", "title": "x", b"\xff": "an odd name"})
    dead = RedisStreamEvents(client, "many", "dead")
    assert len(dead.poll(500)) == 500
    other = RedisStreamEvents(client, "many", "other", idle_seconds=0.05)
    time.sleep(0.1)
    taken = [event for _ in range(9) for event in other.poll(64)]
    assert {event.item_id for event in taken} == {f"i{n}" for n in range(500)}
    other.ack(taken)
    assert client.xlen("many") == 0
    client.xadd("many", {"item_id": "x", "title": "x"})
    time.sleep(4)
    assert len(other.poll(5)) == 1
    other.poll(5)
    names = {consumer["name"] for consumer in client.xinfo_consumers("many", "encoder")}
    assert names == {b"other"}, "consumers that are gone are deleted"


def test_a_file_that_cannot_be_read_is_parked_with_its_reason(tmp_path: Path) -> None:
    drop(tmp_path, "half.json", '{"item_id": ')
    drop(tmp_path, "bad.parquet", "no parquet")
    drop(tmp_path, "line.jsonl", '{"item_id": "a", "title": "x"}\nnonsense\n')
    source = FolderEvents(tmp_path)
    events = [event for _ in range(12) for event in source.poll(10)]
    assert [event.item_id for event in events] == ["a", "line.jsonl:1"]
    assert "not JSON" in events[1].error
    assert "JSONDecodeError" in (tmp_path / "parked/half.json.reason").read_text()
    assert "Parquet" in (tmp_path / "parked/bad.parquet.reason").read_text()


def test_a_stream_gives_again_what_a_dead_consumer_had_taken(redis_server: RedisServer) -> None:
    client = open_center(redis_server.url).client  # type: ignore[attr-defined]
    client.delete("news")
    for n in range(4):
        client.xadd("news", {"item_id": f"i{n}", "title": "x", "image": picture("red")})
    client.xadd("news", {"title": "nobody's"})
    first = RedisStreamEvents(client, "news", "one")
    taken = first.poll(2)
    assert [event.item_id for event in taken] == ["i0", "i1"]
    assert taken[0].content == Content(picture("red"), "x")
    first.ack(taken[:1])
    same = RedisStreamEvents(client, "news", "one")  # the same consumer after a restart
    assert [event.item_id for event in same.poll(10)] == ["i1"]
    other = RedisStreamEvents(client, "news", "two", idle_seconds=0)
    rest = other.poll(10)
    assert [event.item_id for event in rest] == ["i1"]  # taken over from who was idle
    fresh = RedisStreamEvents(client, "news", "three").poll(10)
    assert [event.item_id for event in fresh][:2] == ["i2", "i3"]
    assert fresh[2].content is None
    other.ack([*rest, *fresh])
    assert client.xlen("news") == 0


def test_content_has_the_hash_the_export_gives_it() -> None:
    assert Content(b"x", "ä", "b").hash == content_hash(b"x", "ä".encode(), b"b")
    assert [Content().modalities, Content(b"x").modalities, Content(title=" ").modalities] == [0, 1, 0]
    assert Content(b"x", "y").modalities == 3
