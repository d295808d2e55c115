"""From a shop's own export to a schema, and what a preview says of the folder."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from components.contract.guess import guess_schema, read_sample, to_yaml
from components.contract.preview import Preview, preview_folder
from components.contract.tables import ContractError
from tests.components.exports import EXPORTS, T0, Export
from tfx_pipeline.cli import main


def initialised(export: Export, folder: Path) -> Preview:
    values, guesses = guess_schema(export.items, export.log, folder, export.kind)
    (folder / "shop.yaml").write_text(to_yaml(values, guesses))
    return preview_folder(str(folder))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_understood_without_a_word(name: str, tmp_path: Path) -> None:
    export = EXPORTS[name](tmp_path / "shop")
    found = initialised(export, tmp_path / "shop")
    assert found.problems == []
    assert found.warnings == []
    written = yaml.safe_load((tmp_path / "shop/shop.yaml").read_text())
    for table, columns in export.schema.items():
        for column, source in columns.items():
            guessed = written[table]["columns"][column]
            assert (guessed["column"] if isinstance(guessed, dict) else guessed) == source, column
    items, log = found.tables["items"], found.tables[export.kind]
    assert items.used == items.rows == 60
    assert not items.missing
    assert log.used == export.impressions
    assert int(log.valid["clicked"].to_numpy().sum()) == export.clicks
    assert log.valid["timestamp"].to_numpy().min() >= T0


def test_what_is_known_after_the_click_is_no_context(tmp_path: Path) -> None:
    initialised(EXPORTS["requests"](tmp_path / "shop"), tmp_path / "shop")
    columns = yaml.safe_load((tmp_path / "shop/shop.yaml").read_text())["impressions"]["columns"]
    assert set(columns) == {"user_id", "item_id", "timestamp", "clicked", "sequence", "device"}
    rng = np.random.default_rng(0)
    clicked = rng.integers(0, 2, 200)
    write(
        tmp_path, clicked=clicked, exit_page=np.where(clicked, "item", "list"), hour=[f"h{n % 5}" for n in range(200)]
    )
    values, guesses = guess_schema(tmp_path / "items.parquet", tmp_path / "impressions.parquet", tmp_path)
    assert "hour" in values["impressions"]["columns"]
    assert "exit_page" not in values["impressions"]["columns"]
    assert any("known only after the click" in guess.why for guess in guesses)


def test_what_was_guessed_of_the_german_shop(tmp_path: Path) -> None:
    initialised(EXPORTS["german"](tmp_path / "shop"), tmp_path / "shop")
    found = yaml.safe_load((tmp_path / "shop/shop.yaml").read_text())
    assert found["items"]["encoding"] == "cp1252"
    assert found["items"]["delimiter"] == ";"
    assert found["items"]["columns"]["Preis"] == {"column": "Preis", "type": "number", "decimal": ","}
    assert found["items"]["columns"]["Groesse"] == {"column": "Größe", "type": "categorical"}
    assert found["images"] == "fotos"
    assert found["events"]["view"] == ["Ansicht"]
    assert found["events"]["labels"] == {"clicked": ["Klick"]}


def test_what_was_guessed_of_nested_parquet(tmp_path: Path) -> None:
    found = initialised(EXPORTS["nested"](tmp_path / "shop"), tmp_path / "shop")
    columns = yaml.safe_load((tmp_path / "shop/shop.yaml").read_text())["items"]["columns"]
    assert columns["attributes_brand"] == {"column": "attributes.brand", "type": "categorical"}
    assert columns["attributes_price"] == {"column": "attributes.price", "type": "number"}
    valid = found.tables["items"].valid
    assert valid["item_id"][0].as_py() == "6800000000000"
    assert set(valid["category"].to_pylist()[0].split("|")) >= {"home"}
    assert all(valid["image"].to_pylist())


def test_the_commands(tmp_path: Path) -> None:
    export = EXPORTS["requests"](tmp_path / "shop")
    tables = ["--items", str(export.items), "--impressions", str(export.log)]
    runner = CliRunner()
    done = runner.invoke(main, ["init", *tables])
    assert done.exit_code == 0, done.output
    assert "items.item_id" in done.output
    assert "e.g. 10000" in done.output
    assert f"mim check --data {tmp_path / 'shop'}" in done.output
    again = runner.invoke(main, ["init", *tables])
    assert again.exit_code == 2
    assert "--force" in again.output
    assert runner.invoke(main, ["init", *tables, "--force"]).exit_code == 0
    checked = runner.invoke(main, ["check", "--data", str(tmp_path / "shop")])
    assert checked.exit_code == 0
    assert "3,000 rows of impressions.tsv.gz: 3,000 used" in checked.output
    assert "split by time: train 2,400, valid 300, test 300" in checked.output
    assert "next: mim run --config shop" in checked.output


def test_a_wrong_folder_is_told_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = CliRunner().invoke(main, ["check", "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "holds no table `items`" in done.output
    assert time.monotonic() - begun < 30  # a generous bound: it reads nothing
    (tmp_path / "shop.yaml").write_text("items: {colums: {}}")
    assert "Did you mean 'columns'" in preview_folder(str(tmp_path)).text
    run = CliRunner().invoke(main, ["run", "--config", "shop", "--data", str(tmp_path), "--root", str(tmp_path / "r")])
    assert run.exit_code == 1
    assert not (tmp_path / "r").exists()


def write(folder: Path, items: int = 20, **columns: object) -> None:
    rng = np.random.default_rng(0)
    pq.write_table(
        pa.table({"item_id": [f"i{n}" for n in range(items)], "title": ["x"] * items}), folder / "items.parquet"
    )
    n = 200
    table: dict[str, object] = {
        "user_id": [f"u{k % 9}" for k in range(n)],
        "item_id": [f"i{k % 20}" for k in range(n)],
        "timestamp": T0 + np.arange(n),
        "clicked": rng.integers(0, 2, n),
    }
    pq.write_table(pa.table(table | columns), folder / "impressions.parquet")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"clicked": np.ones(200, int)}, "problem: table `impressions`: every impression has the label 1"),
        ({"timestamp": np.full(200, T0)}, "problem: the split by time leaves train and valid without rows: 1 distinct"),
        ({"timestamp": T0 + 86_400 * (np.arange(200) // 4)}, "warning: times are whole days"),
        ({"timestamp": np.arange(200)}, r"200 of 200 rows break the contract.*Fix: declare its unit"),
        ({"item_id": ["other"] * 200}, "rows are about items that the catalogue lacks"),
        ({"clicked": np.arange(200) // 180}, "warning: every impression of split (train|test) has the label"),
    ],
)
def test_what_a_preview_warns_of(tmp_path: Path, columns: dict[str, object], expected: str) -> None:
    write(tmp_path, **columns)
    assert re.search(expected, preview_folder(str(tmp_path)).text)


def test_a_preview_looks_at_the_first_rows_alone(tmp_path: Path) -> None:
    write(tmp_path)
    found = preview_folder(str(tmp_path), rows=50)
    log = found.tables["impressions"]
    assert not log.whole or log.rows == 200  # one batch is the least that is read
    assert log.total == 200


def test_no_guess_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("p,q\n8,9\n")
    with pytest.raises(ContractError, match="no column of .*b.csv holds ids of .*a.csv"):
        guess_schema(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path)
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(ContractError, match=r"c.csv is empty"):
        read_sample(tmp_path / "c.csv")
    with pytest.raises(ContractError, match="must end in .parquet, .csv"):
        read_sample(Path(__file__))


def test_variants_keep_their_first_row(tmp_path: Path) -> None:
    lines = ["handle,title,body", *(f"p{n // 3},{f'name {n}' if n % 3 == 0 else ''},text {n}" for n in range(60))]
    (tmp_path / "products.csv").write_text("\n".join(lines))
    log = ["user,handle,time,clicked", *(f"u{n % 5},p{n % 20},{T0 + n},{n % 2}" for n in range(100))]
    (tmp_path / "log.csv").write_text("\n".join(log))
    values, _ = guess_schema(tmp_path / "products.csv", tmp_path / "log.csv", tmp_path)
    assert values["policies"]["repeated_ids"] == "first"
    assert "impressions" in values
