"""Exports of shops that differ in every habit, generated; each with what is true of it."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

T0 = 1_760_000_000
COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 60), "black": (10, 10, 10)}
KINDS = ("mug", "lamp", "chair", "shirt")


@dataclass(frozen=True)
class Export:
    """A shop's export.

    Attributes:
        items, log: Its files or folders.
        kind: `events` or `impressions`.
        impressions, clicks: How many there are.
        schema: Keys of shop.yaml that must be guessed, to their values.
    """

    items: Path
    log: Path
    kind: str
    impressions: int
    clicks: int
    schema: dict[str, Any]


@dataclass(frozen=True)
class Shop:
    """Items, and what users saw and clicked: those who like a colour click it."""

    color: np.ndarray
    kind: np.ndarray
    price: np.ndarray
    user: np.ndarray
    item: np.ndarray
    seconds: np.ndarray
    clicked: np.ndarray


def generate(items: int, users: int, impressions: int, seed: int) -> Shop:
    rng = np.random.default_rng(seed)
    color, kind = rng.choice(list(COLORS), items), rng.choice(KINDS, items)
    taste = rng.choice(list(COLORS), users)
    user, item = rng.integers(0, users, impressions), rng.integers(0, items, impressions)
    clicked = rng.random(impressions) < np.where(color[item] == taste[user], 0.5, 0.05)
    seconds = np.sort(rng.choice(40 * 86_400, impressions, replace=False))
    return Shop(color, kind, np.round(rng.uniform(3, 1500, items), 2), user, item, T0 + seconds, clicked)


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), COLORS[color]).save(buffer, "PNG")
    return buffer.getvalue()


def impressions_with_requests(folder: Path, items: int = 60, users: int = 40, impressions: int = 3000) -> Export:
    """TSV; integer ids, a request's id, a position, two labels, milliseconds."""
    shop = generate(items, users, impressions, 1)
    folder.mkdir(parents=True)
    catalogue = folder / "products.tsv"
    with catalogue.open("w", newline="") as file:
        file.write("productId\tproductName\tdescription\tcategory\tbrand\tprice\tlaunchDate\n")
        for n in range(items):
            name = f'{shop.color[n]} {shop.kind[n]} 5" wide'
            row = [10_000 + n, name, f"A {shop.color[n]} {shop.kind[n]}.", shop.kind[n], f"b{n % 7}", shop.price[n]]
            file.write("\t".join(map(str, [*row, "2025-01-0" + str(1 + n % 9)])) + "\n")
    log = folder / "impressions.tsv.gz"
    with gzip.open(log, "wt", newline="") as file:
        file.write("requestId\tvisitorId\tproductId\tposition\teventTime\tclicked\tordered\tdevice\n")
        for n in range(impressions):
            row = [f"r{n // 5}", 7_000 + shop.user[n], 10_000 + shop.item[n], n % 5, 1000 * int(shop.seconds[n])]
            ordered = int(shop.clicked[n] and n % 7 == 0)
            file.write("\t".join(map(str, [*row, int(shop.clicked[n]), ordered, ("app", "web")[n % 2]])) + "\n")
    schema = {
        "items": {"item_id": "productId", "title": "productName", "text": "description", "category": "category"},
        "impressions": {"user_id": "visitorId", "item_id": "productId", "timestamp": "eventTime", "clicked": "clicked"},
    }
    return Export(catalogue, log, "impressions", impressions, int(shop.clicked.sum()), schema)


def german_shop(folder: Path, items: int = 60, users: int = 40, impressions: int = 3000) -> Export:
    """Windows-1252, semicolons, decimal commas, DD.MM.YYYY without a zone, pictures in a folder of their own."""
    shop = generate(items, users, impressions, 2)
    (folder / "fotos").mkdir(parents=True)
    catalogue = folder / "stammdaten" / "artikel.csv"
    catalogue.parent.mkdir()
    rows = [["Artikelnummer", "Bezeichnung", "Beschreibung", "Kategorie", "Preis", "Größe", "Bild", "Anlagedatum"]]
    for n in range(items):
        (folder / f"fotos/a{n}.png").write_bytes(picture(str(shop.color[n])))
        preis = f"{shop.price[n]:,.2f}".translate(str.maketrans(",.", ".,")) + " €"
        what = f"Schöner {shop.kind[n]} in {shop.color[n]}; für draußen"
        day = f"{1 + n % 28:02d}.03.2025"
        groesse = ("groß", "klein")[n % 2]
        rows.append(
            [f"A-{n}", f"{shop.kind[n]} {shop.color[n]} für dich", what, shop.kind[n], preis, groesse, f"a{n}.png", day]
        )
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="\r\n").writerows(rows)
    catalogue.write_bytes(text.getvalue().encode("cp1252"))
    log = folder / "protokoll.csv"
    lines = ["Kunde;Artikel;Zeit;Ereignis"]
    for n in range(impressions):
        for after, event in ((0, "Ansicht"), (20, "Klick")):
            moment = datetime.datetime.fromtimestamp(int(shop.seconds[n]) + after, datetime.UTC)
            if event == "Ansicht" or shop.clicked[n]:
                lines.append(f"K{shop.user[n]};A-{shop.item[n]};{moment:%d.%m.%Y %H:%M:%S};{event}")
    log.write_bytes("\r\n".join([*lines, ""]).encode("cp1252"))
    schema = {
        "items": {
            "item_id": "Artikelnummer",
            "title": "Bezeichnung",
            "image_path": "Bild",
            "created_at": "Anlagedatum",
        },
        "events": {"user_id": "Kunde", "item_id": "Artikel", "timestamp": "Zeit", "event": "Ereignis"},
    }
    return Export(catalogue, log, "events", impressions, int(shop.clicked.sum()), schema)


def nested_parquet(folder: Path, items: int = 60, users: int = 40, impressions: int = 3000) -> Export:
    """Parquet of records and lists, ready-made embeddings and pictures inside, Arrow's times with a zone, ids that
    pandas made floats."""
    shop = generate(items, users, impressions, 3)
    folder.mkdir(parents=True)
    catalogue = folder / "catalog.parquet"
    table = pa.Table.from_pylist(
        [
            {
                "sku": 6_800_000_000_000 + n,
                "name": f"{shop.color[n]} {shop.kind[n]}",
                "categories": [str(shop.kind[n]), "home"],
                "attributes": {"brand": f"b{n % 7}", "price": float(shop.price[n])},
                "image": picture(str(shop.color[n])),
                "embedding": [float(list(COLORS).index(shop.color[n]) == place) for place in range(4)] if n else None,
            }
            for n in range(items)
        ]
    )
    pq.write_table(table, catalogue, data_page_size=1 << 12, row_group_size=16)
    log = folder / "events"
    log.mkdir()
    rows: list[dict[str, Any]] = []
    for n in range(impressions):
        moment = datetime.datetime.fromtimestamp(int(shop.seconds[n]), datetime.UTC)
        row = {"session": f"s{shop.user[n]}", "sku": float(6_800_000_000_000 + shop.item[n]), "device": "app"}
        rows.append({**row, "ts": moment, "action": "impression"})
        if shop.clicked[n]:
            rows.append({**row, "ts": moment + datetime.timedelta(seconds=3), "action": "product_click"})
    for part in range(3):
        piece = pa.Table.from_pylist(rows[part::3])
        zone = pa.timestamp("ms", "Europe/Berlin")
        piece = piece.set_column(piece.schema.get_field_index("ts"), "ts", piece["ts"].cast(zone))
        pq.write_table(piece, log / f"part-{part}.parquet", row_group_size=100)
    schema = {
        "items": {
            "item_id": "sku",
            "title": "name",
            "category": "categories",
            "image": "image",
            "embedding": {"column": "embedding", "type": "embedding", "dim": 4},
        },
        "events": {"user_id": "session", "item_id": "sku", "timestamp": "ts", "event": "action"},
    }
    return Export(catalogue, log, "events", impressions, int(shop.clicked.sum()), schema)


EXPORTS: dict[str, Callable[..., Export]] = {
    "requests": impressions_with_requests,
    "german": german_shop,
    "nested": nested_parquet,
}
