"""Broken rows of each kind give what the contract promises: a reason, a place, and counts that add up."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.contract.files import find_table
from components.contract.schema import Schema
from components.contract.tables import ContractError
from tests.components.runner import read, run_catalogue, run_histories, run_impressions, run_pairs
from tfx_pipeline.importers.sample_pictures import draw_picture

T0 = 1_700_000_000


def picture() -> bytes:
    return draw_picture(np.random.default_rng(0), "red", "star", "plain", "smooth", size=32)


def item(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "item_id": f"i{number}",
        "title": f"title {number}",
        "text": "words",
        "category": "mug",
        "image": picture(),
    }
    return {**plain, "created_at": T0, **changes}


def write_items(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")


def write_impressions(folder: Path, rows: list[dict[str, Any]], name: str = "impressions.csv") -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter="\t" if ".tsv" in name else ",")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def impression(number: int, **changes: Any) -> dict[str, Any]:
    plain = {"user_id": "u1", "item_id": f"i{number % 5}", "timestamp": T0 + number, "clicked": number % 2}
    return {**plain, "sequence": number, **changes}


def rejected(out: Path, table: str) -> list[dict[str, Any]]:
    (file,) = out.glob(f"*/rejected/{table}.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def counts(out: Path, artifact: str) -> dict[str, int]:
    return json.loads((out / artifact / "counts.json").read_text())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"item_id": None}, "no item_id"),
        ({"item_id": "  "}, "no item_id"),
        ({"item_id": "i1"}, "item_id appears a second time (received 'i1')"),
    ],
)
def test_a_broken_item_is_rejected_with_its_reason(tmp_path: Path, broken: dict, reason: str) -> None:
    rows = [item(n) for n in range(5)]
    write_items(tmp_path, [*rows[:3], {**item(9), **broken}, *rows[3:]])
    schema = Schema.from_yaml("policies: {repeated_ids: reject}")
    made = run_catalogue(tmp_path, tmp_path / "out", schema=schema.to_json())
    (reject,) = rejected(tmp_path / "out", "items")
    assert reject["row"] == 4
    assert reject["column"] == "item_id"
    assert reject["file"].endswith("items.parquet")
    assert reject["reason"].startswith(reason)
    found = counts(tmp_path / "out", "items")
    assert found["rows in"] == 6
    assert found["rows out"] == 5 == len(read(made, "train")) + len(read(made, "valid"))
    assert sum(found.values()) == 12


def test_missing_modalities_are_no_errors(tmp_path: Path) -> None:
    write_items(tmp_path, [item(0, image=None), item(1, title=None, text=None), item(2)])
    made = run_catalogue(tmp_path, tmp_path / "out")
    rows = {row["item_id"]: row for split in ("train", "valid") for row in read(made, split)}
    assert rows["i0"]["image"] == ""
    assert rows["i1"]["title"] == ""
    assert not list((tmp_path / "out").glob("**/items.jsonl"))


def test_images_by_path_and_other_formats(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.open(io.BytesIO(picture())).save(tmp_path / "images/a.webp")
    paths = {"i0": "images/a.webp", "i1": "images/not-there.png"}
    write_items(tmp_path, [{"item_id": name, "title": "a", "image_path": path} for name, path in paths.items()])
    made = run_catalogue(tmp_path, tmp_path / "out")
    images = {row["item_id"]: row["image"] for split in ("train", "valid") for row in read(made, split)}
    assert images["i0"]
    assert not images["i1"]
    found = counts(tmp_path / "out", "items")
    assert found == {"rows in": 2, "rows out": 2, "missing: image_path names no file that can be read": 1}


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ({"image": picture()[:200]}, "image cannot be decoded"),
        ({"image": b"this is no picture"}, "image cannot be decoded"),
        ({"created_at": 4_102_444_800}, "created_at is outside 1990 to 2099"),
    ],
)
def test_an_optional_value_that_cannot_be_read_is_missing(tmp_path: Path, broken: dict, missing: str) -> None:
    write_items(tmp_path, [item(0), item(1, **broken)])
    made = run_catalogue(tmp_path, tmp_path / "out")
    rows = {row["item_id"]: row for split in ("train", "valid") for row in read(made, split)}
    (name,) = broken
    assert rows["i0"][name]
    assert not rows["i1"][name]
    assert counts(tmp_path / "out", "items") == {"rows in": 2, "rows out": 2, f"missing: {missing}": 1}


@pytest.mark.parametrize(("policy", "kept"), [("latest", "title 7"), ("first", "title 1")])
def test_of_repeated_ids_one_row_is_kept(tmp_path: Path, policy: str, kept: str) -> None:
    write_items(tmp_path, [item(0), item(1), item(7, item_id="i1"), item(3)])
    schema = Schema.from_yaml(f"policies: {{repeated_ids: {policy}}}")
    made = run_catalogue(tmp_path, tmp_path / "out", schema=schema.to_json())
    titles = {row["item_id"]: row["title"] for split in ("train", "valid") for row in read(made, split)}
    assert titles == {"i0": "title 0", "i1": kept, "i3": "title 3"}
    found = counts(tmp_path / "out", "items")
    which = "later" if policy == "latest" else "earlier"
    assert found == {"rows in": 4, "rows out": 3, f"dropped: a {which} row has the same item_id": 1}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    write_items(folder, [item(n) for n in range(5)])
    return run_catalogue(folder, folder / "out")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"user_id": ""}, "no user_id"),
        ({"item_id": ""}, "no item_id"),
        ({"item_id": "i77"}, "item_id is not in the catalogue (received 'i77')"),
        ({"item_id": "7.25e+1"}, "item_id is a fraction or a rounded number, which is no id (received '7.25e+1')"),
        ({"clicked": 2}, "clicked is not 0 or 1 (received 2)"),
        ({"clicked": -1}, "clicked is not 0 or 1 (received -1)"),
        ({"clicked": "perhaps"}, "clicked is not a whole number (received 'perhaps')"),
        ({"clicked": ""}, "no clicked"),
        ({"timestamp": "soon"}, "timestamp is not a time (received 'soon')"),
        ({"timestamp": "2024-13-01"}, "timestamp is not a time (received '2024-13-01')"),
        ({"timestamp": "12.5"}, "timestamp is outside 1990 to 2099 (received '12.5')"),
        ({"timestamp": 95_617_584_000}, "timestamp is outside 1990 to 2099 (received '95617584000')"),
    ],
)
def test_a_broken_impression_is_rejected_with_its_reason(
    tmp_path: Path, catalogue: Any, broken: dict, reason: str
) -> None:
    rows = [impression(n) for n in range(20)]
    rows[6].update(broken)
    write_impressions(tmp_path, rows, "impressions.tsv.gz" if "clicked" in broken else "impressions.csv")
    schema = Schema.from_yaml("policies: {unknown_items: reject}")
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, schema=schema.to_json())
    (reject,) = rejected(tmp_path / "out", "impressions")
    assert (reject["row"], reject["reason"]) == (7, reason)
    assert [reject["column"]] == list(broken)
    assert sum(len(read(made, split)) for split in ("train", "valid", "test")) == 19
    assert counts(tmp_path / "out", "impressions")["rows in"] == 20


def test_a_row_with_too_few_fields_is_rejected(tmp_path: Path, catalogue: Any) -> None:
    write_impressions(tmp_path, [impression(n) for n in range(20)])
    with (tmp_path / "impressions.csv").open("a") as file:
        file.write("u1,i1\n")
    run_impressions(tmp_path, tmp_path / "out", catalogue)
    (reject,) = rejected(tmp_path / "out", "impressions")
    assert reject["reason"] == "malformed row (received '2 fields where the header has 5')"
    assert reject["row"] == 21


def test_too_many_broken_rows_stop_the_run_with_the_commonest_reasons(tmp_path: Path, catalogue: Any) -> None:
    rows = [impression(n) for n in range(40)]
    for n, broken in enumerate(
        [{"clicked": 2}] * 4 + [{"user_id": ""}] * 3 + [{"item_id": ""}] * 2 + [{"timestamp": "x"}]
    ):
        rows[n].update(broken)
    write_impressions(tmp_path, rows)
    with pytest.raises(ContractError) as stopped:
        run_impressions(tmp_path, tmp_path / "out", catalogue, max_rejected_fraction=0.01)
    message = str(stopped.value)
    assert "10 of 40 rows break the data contract, more than the allowed 1.00%" in message
    assert "clicked is not 0 or 1: 4 rows; no user_id: 3 rows; no item_id: 2 rows" in message
    assert "timestamp" not in message
    assert len(rejected(tmp_path / "out", "impressions")) == 10


def test_impressions_of_items_that_are_gone_are_dropped_and_counted(tmp_path: Path, catalogue: Any) -> None:
    rows = [impression(n, **({"item_id": "gone"} if n % 2 else {})) for n in range(40)]
    write_impressions(tmp_path, rows)
    run_impressions(tmp_path, tmp_path / "out", catalogue, max_rejected_fraction=0.0)
    found = counts(tmp_path / "out", "impressions")
    assert found == {"rows in": 40, "rows out": 20, "dropped: item_id is not in the catalogue": 20}


def test_impressions_of_items_that_are_gone_may_be_kept(tmp_path: Path, catalogue: Any) -> None:
    rows = [impression(n, clicked=1, **({"item_id": "gone"} if n % 2 else {})) for n in range(40)]
    write_impressions(tmp_path, rows)
    schema = Schema.from_yaml("policies: {unknown_items: keep}").to_json()
    made = run_impressions(tmp_path, tmp_path / "out", catalogue, max_rejected_fraction=0.0, schema=schema)
    found = counts(tmp_path / "out", "impressions")
    assert found == {"rows in": 40, "rows out": 40, "missing: item_id is not in the catalogue": 20}
    examples = run_histories(tmp_path, tmp_path / "out", made, schema=schema)
    assert {item for row in read(examples, "test") for item in row["history_item_ids"]} > {"gone"}
    pairs = run_pairs(tmp_path, tmp_path / "out", catalogue, made, schema=schema)
    of_pairs = [row for split in ("train", "valid") for row in read(pairs, split)]
    assert of_pairs
    assert not any("gone" in (row["item_id"], *row["query_item_ids"]) for row in of_pairs)
    write_impressions(tmp_path, [impression(n, clicked=1, item_id="gone") for n in range(40)])
    made = run_impressions(tmp_path, tmp_path / "all", catalogue, schema=schema)
    for source in ("auto", "impressions"):
        pairs = run_pairs(tmp_path, tmp_path / "all" / source, catalogue, made, schema=schema, source=source)
        assert not read(pairs, "train")


def test_ids_that_differ_by_spaces_are_one_id(tmp_path: Path) -> None:
    write_items(tmp_path, [item(0), item(1), item(7, item_id=" i1"), item(8, item_id="i1 ")])
    made = run_catalogue(tmp_path, tmp_path / "out")
    titles = {row["item_id"]: row["title"] for split in ("train", "valid") for row in read(made, split)}
    assert titles == {"i0": "title 0", "i1": "title 8"}
    found = counts(tmp_path / "out", "items")
    assert found == {"rows in": 4, "rows out": 2, "dropped: a later row has the same item_id": 2}


def test_an_unreadable_sequence_is_a_missing_one(tmp_path: Path, catalogue: Any) -> None:
    write_impressions(tmp_path, [impression(n, **({"sequence": "1e"} if n == 6 else {})) for n in range(20)])
    run_impressions(tmp_path, tmp_path / "out", catalogue)
    found = counts(tmp_path / "out", "impressions")
    assert found == {"rows in": 20, "rows out": 20, "missing: sequence is not a whole number": 1}


def test_a_wholly_wrong_table_ends_in_its_explanation(
    tmp_path: Path, catalogue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.contract.counts.KEPT_REJECTS", 5)
    write_impressions(tmp_path, [impression(n, timestamp="x", clicked=2 * (n % 2)) for n in range(300)])
    with pytest.raises(ContractError, match="300 of 300 rows break .* timestamp is not a time: 300 rows"):
        run_impressions(tmp_path, tmp_path / "out", catalogue, max_rejected_fraction=0.5)
    kept = rejected(tmp_path / "out", "impressions")
    assert [reject["row"] for reject in kept] == [1, 2, 3, 4, 5]
    assert kept[0]["value"] == "x"
    assert "shop.yaml" in kept[0]["fix"]


def test_an_empty_split_stops_the_run(tmp_path: Path, catalogue: Any) -> None:
    day = 86_400
    rows = [impression(n, timestamp=1_699_920_000 + day * (n // 10)) for n in range(70)]
    write_impressions(tmp_path, rows)
    split = '{"by": "time", "fractions": [0.9, 0.05, 0.05], "new_items": 0}'
    with pytest.raises(ContractError, match=r"no row is left for valid, with data.split.by: time .* split by user"):
        run_impressions(tmp_path, tmp_path / "out", catalogue, split=split)


def test_a_missing_column_stops_the_run(tmp_path: Path, catalogue: Any) -> None:
    rows = [impression(n) for n in range(9)]
    for row in rows:
        del row["clicked"]
    write_impressions(tmp_path, rows)
    with pytest.raises(
        Exception, match=r"impressions.csv lacks the column clicked; it has user_id, item_id, timestamp"
    ):
        run_impressions(tmp_path, tmp_path / "out", catalogue)


def test_an_empty_file_stops_the_run(tmp_path: Path, catalogue: Any) -> None:
    (tmp_path / "impressions.csv").write_bytes(b"")
    with pytest.raises(ContractError, match=r"impressions.csv is empty \(0 bytes\); export it again"):
        run_impressions(tmp_path, tmp_path / "out", catalogue)
    (tmp_path / "impressions.csv").write_text("user_id,item_id,timestamp,clicked\n")
    with pytest.raises(ContractError, match="`impressions` has a header but no rows"):
        run_impressions(tmp_path, tmp_path / "out", catalogue)


def test_a_broken_parquet_file_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Exception, match=r"items.parquet cannot be read .*; is it whole\?"):
        run_catalogue(tmp_path, tmp_path / "out")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="holds no table `items`; expected items.parquet"):
        find_table(str(tmp_path), "items")
    assert find_table(str(tmp_path), "intents") == []
