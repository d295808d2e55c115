"""From a shop's own export to a schema, and what a preview says of the folder."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from components.contract import preview, tables
from components.contract.guess import Guess, guess_schema, to_yaml
from components.contract.preview import Preview, preview_folder
from components.contract.sample import read_sample
from components.contract.schema import Schema
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
            wanted = guessed["column"] if isinstance(guessed, dict) and isinstance(source, str) else guessed
            assert wanted == source, column
    items, log = found.tables["items"], found.tables[export.kind]
    assert items.used == items.rows == 60
    assert not items.missing
    assert log.used == export.impressions
    assert int(log.valid["clicked"].to_numpy().sum()) == export.clicks
    assert log.valid["timestamp"].to_numpy().min() >= T0


def test_what_is_known_after_the_click_is_no_context(tmp_path: Path) -> None:
    initialised(EXPORTS["requests"](tmp_path / "shop"), tmp_path / "shop")
    columns = yaml.safe_load((tmp_path / "shop/shop.yaml").read_text())["impressions"]["columns"]
    assert set(columns) == {"user_id", "item_id", "timestamp", "clicked", "sequence", "device", "ordered"}
    assert columns["ordered"] == {"column": "ordered", "type": "label"}
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
    assert "next: mim run" in checked.output


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
        ({"timestamp": np.arange(200)}, r"200 of 200 rows break the data contract.*Fix: declare its unit"),
        ({"item_id": ["other"] * 200}, "rows are about items that the catalogue lacks"),
        ({"clicked": np.arange(200) // 180}, "warning: every impression of split (train|test) has the label"),
    ],
)
def test_what_a_preview_warns_of(tmp_path: Path, columns: dict[str, object], expected: str) -> None:
    write(tmp_path, **columns)
    assert re.search(expected, preview_folder(str(tmp_path)).text)


def test_a_preview_looks_at_the_first_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(tables, "BATCH_ROWS", 20)
    monkeypatch.setattr(tables, "PICTURE_ROWS", 5)
    monkeypatch.setattr(preview, "IMAGES", 10)
    found = preview_folder(str(tmp_path), rows=50)
    log = found.tables["impressions"]
    assert (log.rows, log.whole, log.total) == (60, False, 200)
    assert found.tables["items"].images_tried == 10
    assert "the first 60 rows of 200 of impressions.parquet" in found.text


def log_of(folder: Path, **columns: Any) -> Path:
    """A catalogue of 200 items with small integers as ids, and a log; the path of the latter."""
    rows = 600
    rng = np.random.default_rng(0)
    items = {"sku": np.arange(1, 201), "title": [f"title {n}" for n in range(200)]}
    table = {
        "visitor": rng.integers(1, 40, rows),
        "sku": rng.integers(1, 230, rows),
        "time": T0 + np.arange(rows),
        "clicked": rng.integers(0, 2, rows),
    }
    pyarrow.csv.write_csv(pa.table(items), folder / "products.csv")
    pyarrow.csv.write_csv(pa.table(table | columns), folder / "log.csv")
    return folder / "log.csv"


def guessed(folder: Path, **columns: Any) -> tuple[dict[str, Any], str]:
    values, guesses = guess_schema(folder / "products.csv", log_of(folder, **columns), folder)
    return values, "\n".join(f"{one.key}: {one.value}; {one.why}" for one in guesses)


def test_small_integers_that_meet_by_chance_are_no_ids_of_items(tmp_path: Path) -> None:
    values, _ = guessed(tmp_path)
    assert values["impressions"]["columns"]["item_id"] == "sku"
    assert values["impressions"]["columns"]["user_id"] == "visitor"


CLICKED = np.random.default_rng(0).integers(0, 2, 600)
NOISE = np.random.default_rng(1).random(600)


@pytest.mark.parametrize(
    "leak",
    [
        np.where(CLICKED, np.round(100 * NOISE) + 1, 0),
        np.round(50 * CLICKED + 49 * NOISE, 3),
        [f"c{n % 70}" if clicked else "" for n, clicked in enumerate(CLICKED)],
        np.where(NOISE < 0.03, 1 - CLICKED, CLICKED) + 5,
    ],
    ids=["seconds on the page", "depth of scrolling", "empty unless clicked", "a noisy copy"],
)
def test_a_column_that_tells_the_label_is_no_context(tmp_path: Path, leak: Any) -> None:
    values, said = guessed(tmp_path, clicked=CLICKED, page=leak, hour=[f"h{n % 24}" for n in range(600)])
    assert "hour" in values["impressions"]["columns"]
    assert "page" not in values["impressions"]["columns"]
    assert "known only after the click" in said


def test_of_two_labels_the_click_is_taken_and_the_other_is_predicted_too(tmp_path: Path) -> None:
    values, said = guessed(tmp_path, is_click=CLICKED, clicked=[""] * 600, klick=1 - CLICKED)
    assert values["impressions"]["columns"]["clicked"] in ("is_click", {"column": "is_click"})
    assert values["impressions"]["columns"]["klick"] == {"column": "klick", "type": "label"}
    assert "predicted too" in said
    values, said = guessed(tmp_path, is_order=CLICKED * (NOISE < 0.5), order_value=NOISE.round(3))
    assert values["impressions"]["columns"]["is_order"] == {"column": "is_order", "type": "label"}
    assert "order_value" not in values["impressions"]["columns"]


def test_days_and_months_that_may_be_swapped_are_asked_for(tmp_path: Path) -> None:
    days = [f"03/{1 + n // 200:02d}/2025 {n % 24:02d}:00" for n in range(600)]
    values, said = guessed(tmp_path, time=days)
    assert values["impressions"]["columns"]["timestamp"]["time"] == "%m/%d/%Y %H:%M"
    assert "are day and month so?" in said
    values, _ = guessed(tmp_path, time=[f"{1 + n % 28}/07/2025 {n % 24:02d}:00" for n in range(600)])
    assert values["impressions"]["columns"]["timestamp"]["time"] == "%d/%m/%Y %H:%M"


def test_an_unknown_form_of_times_names_its_column(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"column time is a time by its name, .*03/01/2025 02:15 PM.*strptime"):
        guessed(tmp_path, time=["03/01/2025 02:15 PM"] * 600)


def test_words_of_yaml_can_be_columns(tmp_path: Path) -> None:
    odd = ["no", "on", "null", "y"]
    columns = {name: [f"v{n % (k + 3)}" for n in range(600)] for k, name in enumerate(odd)}
    values, guesses = guess_schema(tmp_path / "products.csv", log_of(tmp_path, **columns), tmp_path)
    schema = Schema.from_yaml(to_yaml(values, guesses))
    assert set(odd) <= set(schema.impressions.columns)
    assert {schema.impressions.source(name) for name in odd} == set(odd)


def test_names_of_files_may_look_like_globs(tmp_path: Path) -> None:
    folder = tmp_path / "export [2025]"
    folder.mkdir()
    log = log_of(folder)
    items, log = (folder / "products.csv").rename(folder / "art [1].csv"), log.rename(folder / "log*.csv")
    values, guesses = guess_schema(items, log, folder)
    (folder / "shop.yaml").write_text(to_yaml(values, guesses))
    found = preview_folder(str(folder))
    assert found.problems == []
    assert found.tables["items"].used == 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b\x08" + b"x" * 50, "gzip"),
        (b"PK\x03\x04" + b"x" * 50, "Excel"),
        (b"sep=,\nsku,title\n1,a\n", "begins with a line `sep=`"),
        (b"sku,title\n1,a,\n2,b,\n", "the next row has 3 fields, the header 2"),
    ],
)
def test_what_is_no_csv_says_what_it_is(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "items.csv").write_bytes(data)
    with pytest.raises(ContractError, match=message):
        read_sample(tmp_path / "items.csv")


def test_encodings_are_told_apart(tmp_path: Path) -> None:
    rows = "".join(f"{n},Müller {n}\n" for n in range(300))
    for encoding in ("utf-8", "cp1252", "utf-16", "utf-16-le"):
        (tmp_path / "items.csv").write_bytes(f"sku,title\n{rows}".encode(encoding))
        sample = read_sample(tmp_path / "items.csv")
        assert sample.columns["title"][0].as_py() == "Müller 0"
        assert sample.options.get("encoding", "utf-8") == encoding
    (tmp_path / "items.csv").write_bytes(f"sku,title\n{rows}".encode() + b"300,M\xf6ller\n301,x\n")
    assert "encoding" not in read_sample(tmp_path / "items.csv").options, "one bad byte is one bad row"


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp1252", ["grüner Becher", "große Lampe", "Stühle"]),
        ("cp1252", ["café crème", "à la carte", "été élégant", "canapé près du mur"]),
        ("cp1252", ["niño pequeño", "lámpara", "jarrón"]),
        ("cp1252", ["rødgrød med fløde", "lænestol", "blå vase"]),
        ("cp1250", ["zielony kubek", "krzesło dębowe", "źródło światła", "żółta róża"]),
        ("cp1250", ["příliš žluťoučký kůň", "české křeslo", "dřevěný stůl"]),
        ("cp1252", ["Bac à compost 2 m³", "armoire à glace très légère", "forêt", "garçon"]),
        ("cp1252", ["¿Buscas diseño?", "diseño español", "cama 2 m³"]),
        ("cp1252", ["Così è più bella", "tavolo ø 20 cm", "perché no", "città"]),
        ("cp1252", ["Þetta er góð hugmynd", "mögulegt verð", "ævintýri"]),
        ("cp1252", ["Übergröße 3 m³", "„Schöner Wohnen“", "weiß"]),
        ("cp1250", ["szűrő betét", "őszi kollekció", "fűtőtest", "kék üveg"]),
        ("cp1250", ["dječja igračka", "žuta šalica", "kuća za ptice", "đon"]),
        ("cp1250", ["maşină de spălat", "scaun pentru copii", "ţesătură albă"]),
        ("cp1257", ["žalia lempa", "ąžuolinė kėdė", "šviesūs baldai", "įrankių dėžė"]),
        ("cp1257", ["zaļa krūze", "koka krēsls", "ģitāra", "šķīvis", "skaista vāze"]),
        ("cp1257", ["põhjapõder", "šokolaad", "öölamp", "žürii"]),
        ("cp1251", ["зелёная кружка", "большая лампа", "дубовый стул"]),
        ("cp1253", ["πράσινη κούπα", "μεγάλη λάμπα", "δρύινη καρέκλα"]),
        ("cp1254", ["yeşil kupa", "büyük ışık", "çocuk oyuncağı", "ağaç sandalye"]),
        ("cp932", ["緑のマグカップ", "大きなランプ", "木の椅子"]),
        ("gb18030", ["绿色马克杯", "大灯", "橡木椅子"]),
        ("big5", ["綠色馬克杯", "大燈", "橡木椅子"]),
        ("euc_kr", ["녹색 머그컵", "큰 램프", "참나무 의자"]),
    ],
)
def test_languages_are_read_in_their_encodings(tmp_path: Path, encoding: str, words: list[str]) -> None:
    rows = [f"{n},{words[n % len(words)]} {n}" for n in range(300)]
    (tmp_path / "items.csv").write_bytes("\n".join(["sku,title", *rows, ""]).encode(encoding))
    assert read_sample(tmp_path / "items.csv").columns["title"].to_pylist() == [row.split(",")[1] for row in rows]


def test_users_are_a_table_of_their_own(tmp_path: Path) -> None:
    log, products, clients = log_of(tmp_path, country=["de"] * 600), tmp_path / "products.csv", tmp_path / "clients.csv"
    rows = [{"client_no": n, "country": ("de", "fr")[n % 2], "age": 20 + n % 50} for n in range(1, 200)]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), clients)
    values, guesses = guess_schema(products, log, tmp_path, users=clients)
    assert values["users"]["files"] == "clients.csv"
    assert values["users"]["columns"]["user_id"] == "client_no"
    assert {"user_id", "country", "age"} >= set(values["users"]["columns"]) > {"user_id", "age"}
    assert any(guess.key == "users.user_id" and "100% of the log's visitor are among" in guess.why for guess in guesses)
    Schema.from_yaml(to_yaml(values, guesses))
    done = CliRunner().invoke(
        main, ["init", "--items", str(products), "--impressions", str(log), "--users", str(clients), "--force"]
    )
    assert done.exit_code == 0, done.output
    assert "users.age" in done.output
    visits = [{"points": n % 40, "visitor": 1 + n % 39, "age": 30} for n in range(195)]  # several rows a user
    pyarrow.csv.write_csv(pa.Table.from_pylist(visits), clients)
    assert guess_schema(products, log, tmp_path, users=clients)[0]["users"]["columns"]["user_id"] == "visitor"
    later = [{"user_id": 1_000_000 + n, "age": 30} for n in range(200)]  # the log's users lie further down
    pyarrow.csv.write_csv(pa.Table.from_pylist(later), clients)
    assert guess_schema(products, log, tmp_path, users=clients)[0]["users"]["columns"]["user_id"] == "user_id"
    pyarrow.csv.write_csv(pa.table({"nummer": ["x1", "x2"], "country": ["de", "fr"]}), clients)
    with pytest.raises(ContractError, match="no column of .*clients.csv holds ids of visitor"):
        guess_schema(products, log, tmp_path, users=clients)


def test_a_name_that_two_tables_share_is_a_feature_of_each(tmp_path: Path) -> None:
    log = log_of(tmp_path, price=[f"{n % 90}.50" for n in range(600)])
    table = {"sku": np.arange(1, 201), "title": [f"t {n}" for n in range(200)]}
    table |= {"price": [f"{n}.25" for n in range(200)], "image_cluster": ["a", "b"] * 100}
    pyarrow.csv.write_csv(pa.table(table), tmp_path / "products.csv")
    values, _ = guess_schema(tmp_path / "products.csv", log, tmp_path)
    assert {"price", "image_cluster_feature"} <= set(values["items"]["columns"])
    assert values["impressions"]["columns"]["price_feature"]["column"] == "price"


def test_points_that_three_digits_follow_divide_thousands(tmp_path: Path) -> None:
    prices = [f"{n}.{n % 10}10" if n % 3 else str(700 + n) for n in range(1, 201)]
    table = {"sku": np.arange(1, 201), "title": [f"t {n}" for n in range(200)], "price": prices}
    log = log_of(tmp_path)
    pyarrow.csv.write_csv(pa.table({**table, "weight": [f"{n}.5" for n in range(200)]}), tmp_path / "products.csv")
    values, _ = guess_schema(tmp_path / "products.csv", log, tmp_path)
    assert values["items"]["columns"]["price"]["decimal"] == ","
    assert "decimal" not in values["items"]["columns"]["weight"]


def test_addresses_of_pictures_are_no_paths(tmp_path: Path) -> None:
    table = {"sku": np.arange(1, 201), "title": ["t"] * 200, "image": [f"https://cdn/{n}.jpg" for n in range(200)]}
    log = log_of(tmp_path)
    pyarrow.csv.write_csv(pa.table(table), tmp_path / "products.csv")
    values, _ = guess_schema(tmp_path / "products.csv", log, tmp_path)
    assert "image_path" not in values["items"]["columns"]
    values["items"]["columns"]["image_path"] = "image"
    (tmp_path / "shop.yaml").write_text(to_yaml(values, []))
    missing = preview_folder(str(tmp_path)).tables["items"].missing
    assert missing == {"image_path names no file that can be read": 200}


def test_a_header_without_rows_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "items.parquet").unlink()
    (tmp_path / "items.csv").write_text("item_id,title\n")
    assert "table `items` has no rows" in preview_folder(str(tmp_path)).text


def test_one_user_for_all_who_are_not_known_is_warned_of(tmp_path: Path) -> None:
    write(tmp_path, user_id=["guest" if n % 2 else f"u{n % 90}" for n in range(200)])
    assert "user 'guest' has 100 of 200 impressions" in preview_folder(str(tmp_path)).text


def test_repeated_users_are_counted_as_a_run_does(tmp_path: Path) -> None:
    write(tmp_path)
    pq.write_table(
        pa.table({"user_id": [f"u{n % 9}" for n in range(40)], "city": ["x"] * 40}), tmp_path / "users.parquet"
    )
    (tmp_path / "shop.yaml").write_text("users: {columns: {city: city}}")
    users = preview_folder(str(tmp_path)).tables["users"]
    assert users.used == 9
    assert sum(users.dropped.values()) == 31


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


def test_an_embedding_of_another_width_stops_a_run(tmp_path: Path) -> None:
    export = EXPORTS["nested"](tmp_path / "shop")
    initialised(export, tmp_path / "shop")
    written = tmp_path / "shop/shop.yaml"
    written.write_text(written.read_text().replace("dim: 4", "dim: 5"))
    (problem,) = preview_folder(str(tmp_path / "shop")).problems
    assert "embedding is not an embedding of 5 numbers in 59 of 60 rows; mend its dim" in problem


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_numbers_that_name_things_are_categories_and_those_that_count_rows_are_no_context(
    tmp_path: Path, form: str
) -> None:
    count = 400
    items = {"item_id": [f"i{n}" for n in range(count)], "title": [f"thing {n} of many" for n in range(count)]}
    items |= {"product_code": [500_000 + 13 * (n // 3) for n in range(count)], "price": [n % 97 for n in range(count)]}
    rows = 2_000
    log = {"user_id": [f"u{n % 90}" for n in range(rows)], "item_id": [f"i{n * 7 % count}" for n in range(rows)]}
    log |= {
        "timestamp": [1_700_000_000 + 60 * n for n in range(rows)],
        "clicked": [int(n % 5 == 0) for n in range(rows)],
    }
    log |= {"slate": [n // 5 for n in range(rows)], "depth": [n % 40 for n in range(rows)]}
    write = pq.write_table if form == "parquet" else pyarrow.csv.write_csv
    files = [tmp_path / f"{name}.{form}" for name in ("items", "log")]
    for file, columns in zip(files, (items, log), strict=True):
        write(pa.table(columns), file)
    values, guesses = guess_schema(*files, tmp_path, "impressions", None)
    assert values["items"]["columns"]["product_code"] == {"column": "product_code", "type": "categorical"}
    assert values["items"]["columns"]["price"] == {"column": "price", "type": "number"}
    assert "slate" not in values["impressions"]["columns"]
    assert values["impressions"]["columns"]["depth"] == {"column": "depth", "type": "number"}
    assert any("counts up with the rows" in guess.value + guess.why for guess in guesses)


@pytest.mark.parametrize(
    "columns",
    [
        {"has_1_order": CLICKED, "has_has_order": CLICKED},
        {"ordered_1": CLICKED, "ordered_2": 1 - CLICKED},
        {"purchased": CLICKED, "has_purchased": CLICKED},
        {"order": CLICKED, "ctr_order": CLICKED, "class_order": CLICKED},
    ],
    ids=lambda columns: " ".join(columns),
)
def test_labels_of_any_name_get_names_of_their_own(tmp_path: Path, columns: Any) -> None:
    values, _ = guessed(tmp_path, clicked=1 - CLICKED * (NOISE < 0.5), **columns)
    labels = {
        name: one["column"]
        for name, one in values["impressions"]["columns"].items()
        if isinstance(one, dict) and one.get("type") == "label"
    }
    assert set(labels.values()) == set(columns)


def test_a_label_and_an_attribute_of_one_name(tmp_path: Path) -> None:
    items = pa.table({"id": [f"i{n}" for n in range(60)], "name": ["a"] * 60, "order": [n % 7 for n in range(60)]})
    pq.write_table(items, tmp_path / "items.parquet")
    rows = {"user": [f"u{n % 9}" for n in range(600)], "item": [f"i{n % 60}" for n in range(600)]}
    rows |= {"time": list(range(1_700_000_000, 1_700_000_600)), "event": ["view", "click", "order"] * 200}
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")
    values, _ = guess_schema(tmp_path / "items.parquet", tmp_path / "events.parquet", tmp_path)
    assert "order" in values["items"]["columns"]
    assert set(values["events"]["labels"]) == {"clicked", "order_label"}


def test_a_label_with_gaps_is_none(tmp_path: Path) -> None:
    gaps = [None if n % 10 == 0 else int(value) for n, value in enumerate(CLICKED)]
    values, said = guessed(tmp_path, clicked=1 - CLICKED, ordered=gaps)
    assert "ordered" not in values["impressions"]["columns"]
    assert "an outcome, which is not known when the item is shown" in said


def init_tables(folder: Path, items: list[dict[str, Any]], log: list[dict[str, Any]]) -> tuple[dict, list[Guess]]:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(log), folder / "log.parquet")
    return guess_schema(folder / "items.parquet", folder / "log.parquet", folder)


def rows_of_items(count: int = 60) -> list[dict[str, Any]]:
    return [{"sku": f"S{n:03d}", "name": f"thing {n}"} for n in range(count)]


@pytest.mark.parametrize(
    ("names", "views", "clicks"),
    [
        (["view_item_list", "select_item", "view_item", "purchase"], ["view_item_list"], ["select_item"]),
        (["page_view", "product_viewed", "product_added_to_cart"], ["product_viewed"], ["product_added_to_cart"]),
        (["pageview", "click"], ["pageview"], ["click"]),
        (["表示", "クリック", "購入"], ["表示"], ["クリック"]),
    ],
)
def test_the_page_that_follows_a_click_is_no_impression(
    tmp_path: Path, names: list[str], views: list[str], clicks: list[str]
) -> None:
    log = [
        {
            "visitor": f"v{n % 40}",
            "sku": f"S{n % 60:03d}",
            "when": 1_700_000_000 + 60 * n,
            "what": names[n % len(names)],
        }
        for n in range(900)
    ]
    values, _ = init_tables(tmp_path, rows_of_items(), log)
    assert values["events"]["columns"]["event"] == "what", "no name says so; the values do"
    assert values["events"]["view"] == views
    assert values["events"]["labels"]["clicked"] == clicks


def test_roles_that_names_do_not_tell(tmp_path: Path) -> None:
    """A reader rather than a session, the only column of times, an empty column beside a full one."""
    log = [
        {
            "session": f"s{n // 3}",
            "reader": f"r{n % 40}",
            "user_id": None,
            "article": f"S{n % 60:03d}",
            "shown": f"2026-03-{1 + n // 100:02d}T{n % 24:02d}:00:00Z",
            "click": int(n % 5 == 0),
            "kupiono": "tak" if n % 10 == 0 else "nie",
            "outcome": "done" if n % 5 == 0 else ["a", "b"][n % 2],
            "checkout_token": f"t{n % 3}",
            "device": ["app", "web", "tv"][n % 3],
        }
        for n in range(900)
    ]
    items = [
        row
        | {"Product Category": None, "Type": f"type {n % 5}", "clicks_30d": n // 2}
        | {"tags": ", ".join([*("red", "new", "big")[: 1 + n % 3], "abcdef"[n // 3 % 6]])}
        for n, row in enumerate(rows_of_items())
    ]
    values, guesses = init_tables(tmp_path, items, log)
    columns = values["impressions"]["columns"]
    assert {name: columns[name] for name in ("user_id", "timestamp", "clicked", "item_id")} == {
        "user_id": "reader",
        "timestamp": "shown",
        "clicked": "click",
        "item_id": "article",
    }
    assert columns["kupiono"] == {"column": "kupiono", "type": "label"}
    assert set(columns) == {"user_id", "timestamp", "clicked", "item_id", "kupiono", "device"}
    why = {guess.value: guess.why for guess in guesses}
    assert "all rows with 'done' were clicked" in why["outcome"]
    assert "a count of what users did" in why["clicks_30d"]
    assert values["items"]["columns"]["category"] == "Type"
    assert values["items"]["columns"]["tags"] == {"column": "tags", "type": "list", "separator": ","}


def test_kana_and_polish_letters_name_their_encodings(tmp_path: Path) -> None:
    japanese = "商品番号;商品名\n" + "".join(f"A-{n:05d};スズラン 青いマグカップ～№{n}\n" for n in range(5))
    (tmp_path / "j.csv").write_bytes(japanese.encode("cp932"))
    assert read_sample(tmp_path / "j.csv").options["encoding"] == "cp932"
    polish = "kod;nazwa\n" + "".join(f"{n};biała torba, brązowy płaszcz 5 m²\n" for n in range(9))
    (tmp_path / "p.csv").write_bytes(polish.replace("²", "2").encode("cp1250"))
    assert read_sample(tmp_path / "p.csv").options["encoding"] == "cp1250"
    (tmp_path / "g.csv").write_bytes("nr;größe\n1;5 m²\n2;groß\n".encode("cp1252"))
    assert read_sample(tmp_path / "g.csv").options["encoding"] == "cp1252"
    header = "kunde;größe\n" + "".join(f"{n};klein\n" for n in range(300))
    (tmp_path / "h.csv").write_bytes(header.encode("cp1252"))
    assert list(read_sample(tmp_path / "h.csv").columns) == ["kunde", "größe"]


def test_a_value_that_is_always_clicked_is_warned_of(tmp_path: Path) -> None:
    items = pa.table({"item_id": [f"i{n}" for n in range(20)], "title": ["thing"] * 20})
    pq.write_table(items, tmp_path / "items.parquet")
    n = np.arange(1_000)
    log = {
        "user_id": [f"u{k}" for k in n % 30],
        "item_id": [f"i{k}" for k in n % 20],
        "timestamp": 1_700_000_000 + 3_600 * n,
        "clicked": (n % 4 == 0).astype(int),
        "state": np.where(n % 4 == 0, "bought", "open"),
        "device": np.where(n % 3 == 0, "app", "web"),
    }
    pq.write_table(pa.table({name: pa.array(values) for name, values in log.items()}), tmp_path / "impressions.parquet")
    (tmp_path / "shop.yaml").write_text("impressions: {columns: {state: state, device: device}}")
    found = preview_folder(str(tmp_path))
    said = [warning for warning in found.warnings if "were clicked" in warning]
    assert len(said) == 1
    assert "state 'bought'" in said[0]
