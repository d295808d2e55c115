"""Every way in which tables and pictures may lie gives the same rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contract.files import Spans, find_table, load_schema
from components.contract.image_files import ImageFiles
from components.contract.schema import Schema, Table
from components.contract.tables import ContractError, partitions
from tests.components.runner import read, run_catalogue, run_impressions
from tests.components.test_contract import counts, impression, item, picture, write_impressions, write_items
from tfx_pipeline.fingerprints import data_fingerprint

IMPRESSIONS = [impression(n) for n in range(60)]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    write_items(folder, [item(n) for n in range(5)])
    return run_catalogue(folder, folder / "out")


def as_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def daily(folder: Path) -> None:
    for day in range(3):
        as_parquet(IMPRESSIONS[day * 20 : day * 20 + 20], folder / f"impressions/2026-01-0{day + 1}/part-0.parquet")
    (folder / "impressions/_temporary").mkdir()
    (folder / "impressions/_temporary/part-1.parquet").write_bytes(b"half written")
    (folder / "impressions/2026-01-01/_SUCCESS").write_bytes(b"")


def by_user(folder: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "user_id"} for row in IMPRESSIONS]
    as_parquet(rows, folder / "impressions/user_id=u1/part-0.parquet")


LAYOUTS = {
    "parquet": lambda folder: as_parquet(IMPRESSIONS, folder / "impressions.parquet"),
    "csv": lambda folder: write_impressions(folder, IMPRESSIONS),
    "tsv.gz": lambda folder: write_impressions(folder, IMPRESSIONS, "impressions.tsv.gz"),
    "csv.bz2": lambda folder: (folder / "impressions.csv.bz2").write_bytes(bz2.compress(as_csv(IMPRESSIONS))),
    "gz in two pieces": lambda folder: (folder / "impressions.csv.gz").write_bytes(
        gzip.compress(as_csv(IMPRESSIONS)[:500]) + gzip.compress(as_csv(IMPRESSIONS)[500:])
    ),
    "daily folders": daily,
    "Hive partitions": by_user,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tables(tmp_path: Path, catalogue: Any, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    made = run_impressions(tmp_path, tmp_path / "out", catalogue)
    rows = [row for split in ("train", "valid", "test") for row in read(made, split)]
    assert sorted(rows, key=lambda row: row["sequence"]) == IMPRESSIONS
    assert counts(tmp_path / "out", "impressions") == {"rows in": 60, "rows out": 60}


def test_the_latest_spans(tmp_path: Path, catalogue: Any) -> None:
    for day in range(28, 32):  # by number, 2026-01-9 would come after 2026-01-31
        rows = IMPRESSIONS[(day - 28) * 15 : (day - 27) * 15]
        as_parquet(rows, tmp_path / f"impressions/day=2026-01-{day}/part-0.parquet")
    spans = {"pattern": "day={SPAN}", "window": 2}
    before = data_fingerprint(str(tmp_path), Schema(), "impressions", spans=Spans(**spans))
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, spans=json.dumps(spans))
    rows = [row for split in ("train", "valid", "test") for row in read(made, split)]
    assert sorted(rows, key=lambda row: row["sequence"]) == IMPRESSIONS[30:]
    assert len(find_table(str(tmp_path), "impressions", spans=Spans("day={SPAN}"))) == 4

    os.utime(tmp_path / "impressions/day=2026-01-28/part-0.parquet", (1, 1))
    assert data_fingerprint(str(tmp_path), Schema(), "impressions", spans=Spans(**spans)) == before, (
        "outside the window"
    )
    as_parquet(IMPRESSIONS[:5], tmp_path / "impressions/day=2026-02-01/part-0.parquet")
    assert data_fingerprint(str(tmp_path), Schema(), "impressions", spans=Spans(**spans)) != before
    latest = find_table(str(tmp_path), "impressions", spans=Spans(**spans))
    assert [path.split("day=")[1][:10] for path in latest] == ["2026-01-31", "2026-02-01"]
    as_parquet(IMPRESSIONS[:5], tmp_path / "impressions/late/part-0.parquet")
    with pytest.raises(
        ContractError, match=r"late/part-0.parquet lies in no span; it should be like .*/impressions/day=\{SPAN\}/"
    ):
        find_table(str(tmp_path), "impressions", spans=Spans(**spans))


def test_unpadded_dates_are_in_time_order(tmp_path: Path) -> None:
    for day in ("2025-9-30", "2025-10-1", "2024-12-31"):
        as_parquet(IMPRESSIONS[:5], tmp_path / f"impressions/day={day}/part-0.parquet")
    (latest,) = find_table(str(tmp_path), "impressions", spans=Spans("day={SPAN}", 1))
    assert "2025-10-1" in latest
    table = Table(files="impressions/day={SPAN}/part-[0-9].parquet")
    assert len(find_table(str(tmp_path), "impressions", table, Spans(window=2))) == 2


def test_a_note_beside_the_tables_is_none(tmp_path: Path) -> None:
    as_parquet(IMPRESSIONS, tmp_path / "impressions/part-0.parquet")
    (tmp_path / "impressions/README.txt").write_text("ours")
    assert len(find_table(str(tmp_path), "impressions")) == 1


def test_tables_that_lie_elsewhere(tmp_path: Path, catalogue: Any) -> None:
    for day in range(1, 4):
        rows = IMPRESSIONS[(day - 1) * 20 : day * 20]
        as_parquet(rows, tmp_path / f"logs/2026-01-0{day}/shop-a/part-0.parquet")
        as_parquet(rows, tmp_path / f"logs/2026-01-0{day}/shop-b/part-0.parquet")
    data = tmp_path / "data"
    data.mkdir()
    (data / "shop.yaml").write_text(f"impressions: {{files: '{tmp_path}/logs/{{SPAN}}/shop-b/*.parquet'}}\n")
    schema = load_schema(str(data))
    made = run_impressions(data, tmp_path / "out", catalogue, spans='{"window": 2}', schema=schema.to_json())
    rows = [row for split in ("train", "valid", "test") for row in read(made, split)]
    assert sorted(rows, key=lambda row: row["sequence"]) == IMPRESSIONS[20:]
    assert len(find_table(str(data), "impressions", schema.impressions)) == 3

    assert len(find_table(str(data), "impressions", Table(files="../logs/**.parquet"))) == 6
    with pytest.raises(ContractError, match=r"impressions.files must end in .parquet"):
        find_table(str(tmp_path), "impressions", Table(files="data/*.yaml"))
    with pytest.raises(ContractError, match=r"impressions.files names no file: \*.csv"):
        find_table(str(data), "impressions", Table(files="*.csv"))


def test_a_table_in_two_formats_is_refused(tmp_path: Path) -> None:
    write_items(tmp_path, [item(0)])
    (tmp_path / "items.csv").write_text("item_id\ni0\n")
    with pytest.raises(ContractError, match=r"`items` lies in two formats: .*items.csv and .*items.parquet"):
        find_table(str(tmp_path), "items")
    assert len(find_table(str(tmp_path), "items", Table(files="items.csv"))) == 1


def test_zstandard(tmp_path: Path, catalogue: Any) -> None:
    path = tmp_path / "impressions.csv.zst"
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(as_csv(IMPRESSIONS))
    run_impressions(tmp_path, tmp_path / "out", catalogue)
    assert counts(tmp_path / "out", "impressions") == {"rows in": 60, "rows out": 60}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Exception, match=r"impressions.csv.zst cannot be read .*; is it whole\?"):
        run_impressions(tmp_path, tmp_path / "again", catalogue)


def test_partitions() -> None:
    assert partitions("/a/day=2026-01-31/shop=a%2Fb/x=1.csv") == {"day": "2026-01-31", "shop": "a/b"}
    assert partitions("impressions/day=__HIVE_DEFAULT_PARTITION__/p.csv") == {"day": None}


def test_a_file_that_only_pretends_to_be_data_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "impressions").mkdir()
    (tmp_path / "impressions/.part-0.csv").write_text("user_id")
    with pytest.raises(ContractError, match="holds no table `impressions`"):
        find_table(str(tmp_path), "impressions")


def put(folder: Path, kind: str, members: dict[str, bytes]) -> Path:
    path = folder / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_pictures_in_an_archive(tmp_path: Path, kind: str) -> None:
    rows = [{"item_id": f"i{n}", "title": "a", "image_path": f"pictures/{n}.jpg"} for n in range(4)]
    write_items(tmp_path, rows)
    put(tmp_path, kind, {"pictures/0.jpg": picture(), "pictures/1.jpg": picture(), "pictures/2.jpg": b"none"})
    (tmp_path / "pictures").mkdir()
    made = run_catalogue(tmp_path, tmp_path / "out")
    images = {row["item_id"]: row["image"] for split in ("train", "valid") for row in read(made, split)}
    assert {name for name, image in images.items() if image} == {"i0", "i1"}
    found = counts(tmp_path / "out", "items")
    assert found["missing: image cannot be decoded"] == found["missing: image_path names no file that can be read"] == 1


def test_no_picture_is_read_from_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files = ImageFiles(str(tmp_path))
    for path in ("pipe.jpg", "/dev/zero", ".", "https://cdn/x.jpg", "s3://b/x.jpg", "a\0b", "gone.jpg"):
        with pytest.raises(OSError, match=r"."):
            files.read(path)
    with pytest.raises(OSError, match="no credentials for s3://"):
        files.read("s3://b/y.jpg")
    monkeypatch.setattr("components.contract.image_files.MAX_BYTES", 9)
    (tmp_path / "large.jpg").write_bytes(b"x" * 100)
    put(tmp_path, "zip", {"packed.jpg": b"x" * 100})
    assert len(files.read("large.jpg")) == len(ImageFiles(str(tmp_path)).read("packed.jpg")) == 10


def test_an_archive_that_is_not_whole_and_one_that_changed(tmp_path: Path) -> None:
    write_items(tmp_path, [item(0)])
    path = put(tmp_path, "zip", {"a.jpg": picture()})
    before = data_fingerprint(str(tmp_path), Schema(), "items")
    os.utime(path, (1, 1))
    assert data_fingerprint(str(tmp_path), Schema(), "items") != before
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"images.zip cannot be read .*; is it whole\?"):
        ImageFiles(str(tmp_path))
