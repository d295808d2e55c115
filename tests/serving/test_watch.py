"""New items get their vectors from a really served encoder."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.ports import free_port
from benchmarks.redis_server import RedisServer
from components.contract.catalogue_content import CatalogueContent
from serving.client import MimClient
from serving.embedded_server.server import EmbeddedServer
from serving.representation_center.center import CenterError, RepresentationCenter, open_center
from serving.representation_center.events import Content, FolderEvents, RedisStreamEvents
from serving.representation_center.watch import EncoderUnavailable, WatchConfig, Watcher
from tests.serving.conftest import version
from tests.serving.test_events import drop
from tests.tiny_encoder import export_tiny_encoder
from tfx_pipeline.importers.sample_pictures import draw_picture

D = 16


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Two encoders, exported; and their versions."""
    folder = tmp_path_factory.mktemp("encoders")
    return folder, {seed: export_tiny_encoder(folder / str(seed), seed) for seed in (1, 2)}


@pytest.fixture(scope="module")
def served(encoders: tuple[Path, dict[int, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[MimClient]:
    models = tmp_path_factory.mktemp("models")
    (models / "mim_encoder").mkdir()
    (models / "mim_encoder/1").symlink_to(encoders[0] / "1")
    with EmbeddedServer(models, port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available("mim_encoder")
        yield client


@pytest.fixture
def ready(center: RepresentationCenter, encoders: tuple[Path, dict[int, str]]) -> str:
    """The served encoder's version, active in the Center."""
    name = encoders[1][1]
    center.add_version(version(name, D))
    center.promote(name)
    return name


def counters(center: RepresentationCenter) -> dict[str, float]:
    value = center.metrics.registry.get_sample_value
    names = ("encoded", "skipped", "hits", "misses", "event_seconds")
    ends = ("_total", "_total", "_total", "_total", "_count")
    return {n: value(f"mim_center_{n}{end}") or 0.0 for n, end in zip(names, ends, strict=True)}


def test_events_become_vectors_and_nothing_is_encoded_twice(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path
) -> None:
    watcher = Watcher(center, served, FolderEvents(tmp_path / "drops"))
    before = counters(center)
    center.get(["new1", "new2"])
    center.flush_misses()
    assert center.stats().queued == 2
    lines = [{"item_id": "new1", "title": "red mug"}, {"item_id": "new2", "title": "blue lamp"}, {"item_id": "bare"}]
    drop(tmp_path / "drops", "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert watcher.step()
    assert not watcher.step()
    found = center.get(["new1", "new2", "bare"])
    assert found.mask.tolist() == [True, True, False]
    assert found.stored.all()
    expected, name, _ = served.embed_many([(b"", "red mug", ""), (b"", "blue lamp", "")])
    assert name == found.version == ready
    np.testing.assert_allclose(found.vectors[:2], expected, atol=0.6 / 127)
    assert center.stats().queued == 0
    assert (tmp_path / "drops/done/a.jsonl").exists()

    drop(tmp_path / "drops", "b.jsonl", "\n".join(map(json.dumps, lines)))  # told again
    watcher.step()
    drop(tmp_path / "drops", "c.jsonl", json.dumps({"item_id": "new1", "title": "green mug"}))  # changed
    watcher.step()
    after = counters(center)
    assert after["encoded"] - before["encoded"] == 3
    assert after["skipped"] - before["skipped"] == 3
    assert after["event_seconds"] - before["event_seconds"] == 7
    changed = served.embed_many([(b"", "green mug", "")])[0]
    np.testing.assert_allclose(center.get(["new1"]).vectors, changed, atol=0.6 / 127)


def test_poison_is_parked_and_the_rest_goes_on(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path
) -> None:
    lines = [{"item_id": f"good{n}", "title": f"mug {n}"} for n in range(6)]
    lines.insert(3, {"item_id": "broken", "image": "bm8gcGljdHVyZQ=="})  # "no picture"
    lines.insert(1, {"title": "nameless"})
    drop(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines)))
    Watcher(center, served, FolderEvents(tmp_path)).step()
    assert center.get([f"good{n}" for n in range(6)]).mask.all()
    parked = center.parked()
    assert set(parked) == {"broken", "a.jsonl:1"}
    assert "cannot identify image file" in parked["broken"]
    assert "names its item in item_id" in parked["a.jsonl:1"]
    assert (tmp_path / "done/a.jsonl").exists()


def test_missed_items_are_found_in_the_catalogue(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"item_id": ["known"], "title": ["red mug"]}), tmp_path / "items.parquet")
    center.get(["known", "unknown"])
    center.flush_misses()
    watcher = Watcher(center, served, FolderEvents(tmp_path / "drops"), CatalogueContent(tmp_path))
    watcher.step()
    assert center.get(["known"]).mask.all()
    assert center.queued(10) == ["unknown"]


def test_an_encoder_that_is_away_costs_nothing(
    center: RepresentationCenter, ready: str, encoders: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    drop(tmp_path, "a.json", json.dumps({"item_id": "late", "title": "red mug"}))
    models = tmp_path / "models"
    (models / "mim_encoder").mkdir(parents=True)
    with EmbeddedServer(models, port=0) as server, MimClient(server.address, timeout=5) as client:
        watcher = Watcher(center, client, FolderEvents(tmp_path), config=WatchConfig(retry_seconds=0.3))
        for _ in range(3):
            with pytest.raises(EncoderUnavailable):
                watcher.step()
        assert center.parked() == {}
        stop = threading.Event()
        thread = threading.Thread(target=watcher.run, args=(stop,))
        thread.start()
        (models / "mim_encoder/1").symlink_to(encoders[0] / "1")
        deadline = time.monotonic() + 30
        while not center.get(["late"]).mask.all() and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        thread.join()
    assert center.get(["late"]).mask.all()


def test_vectors_of_an_encoder_that_the_center_lacks_are_refused(
    center: RepresentationCenter, encoders: tuple[Path, dict[int, str]], served: MimClient, tmp_path: Path
) -> None:
    other = encoders[1][2]
    center.add_version(version(other, D))
    center.promote(other)
    drop(tmp_path, "a.json", json.dumps({"item_id": "new", "title": "red mug"}))
    watcher = Watcher(center, served, FolderEvents(tmp_path))
    with pytest.raises(CenterError, match=f"version {encoders[1][1]} is not in the Center, which holds {other}"):
        watcher.step()
    assert not center.get(["new"]).mask.any()
    assert (tmp_path / "a.json").exists()
    center.add_version(version(encoders[1][1], D))  # as `mim center load` does
    watcher.step()
    assert center.get(["new"], encoders[1][1]).mask.all()
    assert not center.get(["new"]).mask.any()  # the active version is another


def test_content_of_a_picture_alone(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path
) -> None:

    picture = draw_picture(np.random.default_rng(0), "red", "heart", "striped", "smooth")
    pq.write_table(pa.table({"item_id": ["seen"], "image": [picture]}), tmp_path / "a.parquet")
    Watcher(center, served, FolderEvents(tmp_path)).step()
    assert center.content_hashes(["seen"], ready) == [Content(picture).hash]
    np.testing.assert_allclose(center.get(["seen"]).vectors[0], served.embed(image=picture), atol=0.6 / 127)


def test_prometheus_is_told(center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path) -> None:
    port = free_port()
    center.metrics.serve(port)
    drop(tmp_path, "a.json", json.dumps({"item_id": "new", "title": "red mug"}))
    center.get(["new", "never"])
    center.flush_misses()
    watcher = Watcher(center, served, FolderEvents(tmp_path), config=WatchConfig(refresh_seconds=0))
    watcher.step()
    watcher.step()
    center.get(["new"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    assert float(lines["mim_center_hits_total"]) >= 1
    assert float(lines["mim_center_misses_total"]) >= 2
    assert float(lines["mim_center_queue_length"]) == 1
    assert float(lines[f'mim_center_vectors{{version="{ready}"}}']) == 1
    assert 0 <= float(lines["mim_center_newest_vector_age_seconds"]) < 60
    assert float(lines["mim_center_event_seconds_count"]) >= 1


def test_nothing_in_the_folder_stops_the_watcher(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path
) -> None:
    drops = tmp_path / "drops"
    drops.mkdir()
    drop(drops, "a.jsonl", json.dumps({"item_id": "a", "error": "\ud800", "title": "a column of this name"}))
    (drops / "done").write_text("a file of the name of a folder")
    long = "x" * 247
    (drops / f"{long}.json").write_text("{")
    odd = bytes(drops) + b"/\xff.jsonl"
    with open(odd, "wb") as file:
        file.write(b'{"title": "nameless"}')
    drop(drops, "z.json", json.dumps({"item_id": "last", "title": "red mug"}))
    stop = threading.Event()
    watcher = Watcher(center, served, FolderEvents(drops))
    thread = threading.Thread(target=watcher.run, args=(stop,))
    thread.start()

    def arrives(name: str) -> bool:
        deadline = time.monotonic() + 20
        while not center.get([name], queue_misses=False).mask.all() and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(center.get([name], queue_misses=False).mask.all())

    assert arrives("last")
    assert arrives("a")
    shutil.rmtree(drops)
    time.sleep(0.3)
    drops.mkdir(exist_ok=True)
    drop(drops, "again.json", json.dumps({"item_id": "again", "title": "red mug"}))
    assert arrives("again")
    stop.set()
    thread.join()
    (parked,) = center.parked()
    assert parked.startswith("\\udcff.jsonl") or "xff" in parked


def test_a_bug_costs_the_event_that_it_is_about(
    center: RepresentationCenter, ready: str, served: MimClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"item_id": f"i{n}", "title": f"mug {n}"} for n in range(5)]
    drop(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    watcher = Watcher(center, served, FolderEvents(tmp_path))
    encode = watcher._encode

    def broken(events: Any) -> None:
        if any(event.item_id == "i3" for event in events):
            raise KeyError("a bug")
        encode(events)

    monkeypatch.setattr(watcher, "_encode", broken)
    assert watcher.step()
    assert center.get([row["item_id"] for row in rows]).mask.tolist() == [True, True, True, False, True]
    assert center.parked() == {"i3": "KeyError('a bug')"}


def test_a_stream_that_was_deleted_is_read_again(redis_server: RedisServer) -> None:
    client = open_center(redis_server.url).client  # type: ignore[attr-defined]
    client.delete("gone")
    source = RedisStreamEvents(client, "gone", "one")
    client.delete("gone")
    client.xadd("gone", {"item_id": "a", "title": "x"})
    assert [event.item_id for _ in range(3) for event in source.poll(5)] == ["a"]
