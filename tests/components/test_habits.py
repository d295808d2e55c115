"""Habits of real exports, each with the outcome that a shop expects."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contract.preview import preview_folder
from components.contract.schema import Schema
from components.contract.tables import ContractError
from components.report_gen.executor import sentences
from components.report_gen.figures import _figures
from tests.components.runner import read, run_catalogue, run_impressions, run_pairs
from tests.components.test_contract import counts, impression, item, rejected, write_impressions, write_items

T0 = 1_700_000_000
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    write_items(folder, [item(n) for n in range(5)])
    return run_catalogue(folder, folder / "out")


def rows_of(made: Any) -> list[dict[str, Any]]:
    return sorted((row for split in SPLITS for row in read(made, split)), key=lambda row: row["sequence"])


def utc(row: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(row["timestamp"], datetime.UTC)


TIMES: dict[str, tuple[Callable[[dict[str, Any]], Any], pa.DataType | None]] = {
    "milliseconds": (lambda row: row["timestamp"] * 1_000, pa.int64()),
    "microseconds": (lambda row: row["timestamp"] * 1_000_000, pa.int64()),
    "ISO with a zone": (lambda row: utc(row).isoformat(), pa.string()),
    "Arrow with a zone": (utc, pa.timestamp("ms", "Europe/Berlin")),
    "float seconds": (lambda row: float(row["timestamp"]), pa.float64()),
    "German": (lambda row: utc(row).strftime("%d.%m.%Y %H:%M:%S"), pa.string()),
}


@pytest.mark.parametrize("form", TIMES)
def test_times_of_every_form_are_the_same_impressions(tmp_path: Path, catalogue: Any, form: str) -> None:
    plain = [impression(n) for n in range(40)]
    written, kind = TIMES[form]
    table = pa.Table.from_pylist([{name: row[name] for name in row if name != "timestamp"} for row in plain])
    table = table.append_column("timestamp", pa.array([written(row) for row in plain], kind))
    pq.write_table(table, tmp_path / "impressions.parquet")
    assert rows_of(run_impressions(tmp_path, tmp_path / "out", catalogue)) == plain


def test_ids_that_pandas_made_floats_join_the_catalogue(tmp_path: Path) -> None:
    ids = [40_000_000_000 + n for n in range(5)]
    pq.write_table(pa.table({"item_id": ids, "title": ["a"] * 5}), tmp_path / "items.parquet")
    made = run_catalogue(tmp_path, tmp_path / "out")
    n = 40
    columns = {
        "user_id": pa.array([6_806_634_100_033.0 + k % 3 for k in range(n - 1)] + [None]),
        "item_id": pa.array([float(ids[k % 5]) for k in range(n)]),
        "timestamp": [T0 + k for k in range(n)],
        "clicked": [k % 2 for k in range(n)],
        "sequence": range(n),
    }
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), tmp_path / "impressions.parquet")
    rows = rows_of(run_impressions(tmp_path, tmp_path / "out", made))
    assert len(rows) == n - 1
    assert {row["user_id"] for row in rows} == {str(6_806_634_100_033 + k) for k in range(3)}
    assert {row["item_id"] for row in rows} == set(map(str, ids))
    assert rejected(tmp_path / "out", "impressions")[0]["reason"] == "no user_id"


def test_windows_1252_is_refused_with_a_remedy_and_read_where_it_is_declared(tmp_path: Path) -> None:
    lines = ["item_id,title", "stück-é,Café crème – 12 €", "stück-è,plain"]
    (tmp_path / "items.csv").write_bytes("\n".join(lines).encode("cp1252"))
    with pytest.raises(ContractError, match="2 of 2 rows break the data contract"):
        run_catalogue(tmp_path, tmp_path / "out", max_rejected_fraction=0.1)
    assert "encoding" in rejected(tmp_path / "out", "items")[0]["fix"]
    declared = Schema.from_yaml("items: {encoding: cp1252}").to_json()
    made = run_catalogue(tmp_path, tmp_path / "again", schema=declared)
    titles = {row["item_id"]: row["title"] for split in ("train", "valid") for row in read(made, split)}
    assert titles == {"stück-é": "Café crème – 12 €", "stück-è": "plain"}


def test_stray_quotes_in_tsv_lose_no_row(tmp_path: Path, catalogue: Any) -> None:
    impressions = [impression(n) for n in range(40)]
    write_impressions(tmp_path, impressions)
    made = run_impressions(tmp_path, tmp_path / "out", catalogue)
    lines = ["query_text\titem_id\ttimestamp", *(f'"{n}" wide" mug\ti{n % 5}\t{T0 + n % 20}' for n in range(60))]
    (tmp_path / "intents.tsv").write_text("\n".join(lines))
    pairs = run_pairs(tmp_path, tmp_path / "out", catalogue, made)
    assert counts(tmp_path / "out", "pairs") == {"rows in": 60, "rows out": 60}
    assert len([row for split in ("train", "valid") for row in read(pairs, split)]) == 60


def test_a_byte_order_mark_and_fields_of_several_lines(tmp_path: Path) -> None:
    text = "\ufeffitem_id,title,text\r\n" + "".join(f'i{n},🔥 mug,"<li>a</li>\n""b"""\r\n' for n in range(9))
    (tmp_path / "items.csv").write_bytes(text.encode())
    made = run_catalogue(tmp_path, tmp_path / "out")
    rows = [row for split in ("train", "valid") for row in read(made, split)]
    assert {row["text"] for row in rows} == {'<li>a</li>\n"b"'}
    assert len(rows) == 9


def test_attributes_of_items_and_html(tmp_path: Path) -> None:
    lines = ["sku;name;body;preis;marke", '1;a;"<p>soft&nbsp;<b>wool</b></p>";1.299,00 €;Fjell', "2;b;;auf Anfrage;"]
    (tmp_path / "artikel.csv").write_text("\n".join(lines))
    schema = Schema.from_yaml(
        """
        items:
          files: artikel.csv
          delimiter: ;
          columns:
            item_id: sku
            title: name
            text: {column: body, html: true}
            brand: marke
            price: {column: preis, type: number, decimal: ","}
        """
    )
    made = run_catalogue(tmp_path, tmp_path / "out", schema=schema.to_json())
    rows = {row["item_id"]: row for split in ("train", "valid") for row in read(made, split)}
    assert (rows["1"]["text"], float(rows["1"]["price"]), rows["1"]["brand"]) == ("soft wool", 1299.0, "Fjell")
    assert (rows["2"]["price"], rows["2"]["brand"]) == ("", "")
    assert counts(tmp_path / "out", "items") == {"rows in": 2, "rows out": 2, "missing: price is not a number": 1}


def test_labels_that_are_not_in_yet_are_warned_of(tmp_path: Path) -> None:
    write_items(tmp_path, [item(n) for n in range(5)])
    write_impressions(tmp_path, [impression(n, clicked=int(n < 160 and n % 2)) for n in range(200)])
    found = preview_folder(str(tmp_path))
    assert found.problems == []
    assert [one.split(",")[0] for one in found.warnings] == [
        f"every impression of split {name} has the label 0" for name in ("valid", "test")
    ]


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_an_auc_of_one_label_is_undefined(mean: float) -> None:
    measured = {name: {"doubleValue": 0.0} for name in ("auc", "binary_crossentropy", "example_count")}
    assert _figures(measured | {"mean_label": {"doubleValue": 0.5}})["auc"] == 0.0
    assert _figures(measured | {"mean_label": {"doubleValue": mean}})["auc"] is None


def test_a_figure_that_is_undefined_is_told_as_such() -> None:
    figures = {"rows": 600, "auc": 0.61, "gauc": None, "slices": {"cold": {"auc": None}}}
    said = sentences(figures, {"slices": {}}, None)
    assert (
        said[0]
        == "On 600 test rows the ranker reaches an AUC of 0.6100 and a GAUC of undefined (no user has both labels)."
    )
    assert "one label" in said[1]
    assert "undefined (all rows have one label)" in sentences({**figures, "auc": None}, None, None)[0]
