"""Content of single items, as the pipeline reads it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.contract.catalogue_content import CatalogueContent
from components.contract.files import load_schema
from serving.representation_center.events import Content
from serving.representation_center.images import normalize_image
from tests.components.runner import read, run_catalogue


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return normalize_image(buffer.getvalue())


def test_the_catalogue_is_looked_through_again_when_it_changed(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"item_id": ["a"], "title": ["one"], "image": [picture("red")]}), tmp_path / "items.parquet"
    )
    catalogue = CatalogueContent(tmp_path)
    assert catalogue.find(["a", "b"]) == {"a": Content(picture("red"), "one")}
    assert catalogue.find(["b"]) == {}
    table = pa.table({"item_id": ["b"], "title": ["two"], "image": pa.array([None], pa.binary())})
    pq.write_table(table, tmp_path / "items.parquet")
    os.utime(tmp_path / "items.parquet", (2e9, 2e9))
    assert catalogue.find(["b"]) == {"b": Content(title="two")}
    (tmp_path / "csv").mkdir()
    catalogue = CatalogueContent(tmp_path / "csv")
    (tmp_path / "csv/items.csv").write_text("title\nbond\n")
    assert catalogue.find(["007"]) == {}, "a table that lacks a column"
    (tmp_path / "csv/items.csv").write_text("item_id,title\n007,bond\n")
    assert catalogue.find(["007"]) == {"007": Content(title="bond")}


SHOP = """
items:
  files: artikel.csv
  delimiter: ";"
  encoding: cp1252
  columns: {item_id: nr, title: name, text: {column: html, html: true}, image_path: bild}
images: fotos
"""


def test_a_shops_own_export_is_read_as_the_pipeline_reads_it(tmp_path: Path) -> None:
    (tmp_path / "fotos").mkdir()
    Image.new("RGBA", (8, 8), (200, 0, 0, 128)).save(tmp_path / "fotos/a.png")
    rows = ["nr;name;html;bild", "12;Schöner Becher;<p>für &amp; dich</p>;a.png", "13;Lampe;;", "12;Becher;;a.png"]
    (tmp_path / "artikel.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    (tmp_path / "shop.yaml").write_text(SHOP)
    found = CatalogueContent(tmp_path).find(["12", "13", "14"])
    made = run_catalogue(tmp_path, tmp_path / "out", schema=load_schema(str(tmp_path)).to_json())
    records = {row["item_id"]: row for split in ("train", "valid") for row in read(made, split)}
    assert set(found) == set(records) == {"12", "13"}
    for item_id, row in records.items():
        assert (found[item_id].title, found[item_id].text) == (row["title"], row["text"])
    assert found["12"] == Content(found["12"].image, "Becher", "")
    assert found["12"].image
