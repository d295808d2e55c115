"""Shops with known click probabilities, for `mim bench shops` and tests."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

DAYS, SLATE, SIZE = 20, 10, 48  # of the log; candidates of a request; pixels of a picture's side
COLORS = np.array([[200, 40, 40], [40, 160, 60], [50, 70, 200], [220, 190, 40], [140, 60, 170], [60, 190, 200]])
THINGS = ("mug", "lamp", "chair", "scarf", "kettle", "vase", "rug", "clock")
ADJECTIVES = ("small", "large", "light", "heavy", "modern", "plain", "round", "soft", "new", "classic")


@dataclass(frozen=True)
class GeneratedShop:
    """A shop to generate.

    Users differ in what they like.  An item has a colour, a thing and a brand.  What of these decides clicks, and what
    of them a catalogue shows, are two settings.

    Attributes:
        rows: Impressions.
        items, users: How many there are.
        decides: What users' taste is about: any of "color", "thing", "brand".
        pictures: "color": pictures in the item's colour; "random": in any colour; "none".
        titles: "thing": titles name the thing; "random": words that mean nothing; "none".
        attributes: Whether `brand` and `price` are columns.
        popularity: Spread of the items' own appeal, in log-odds.
        taste: Strength of taste, in log-odds.
        click_rate: About the share of clicks.
        lifetime: Days that an item is shown; 0: all the time.
    """

    rows: int
    items: int
    users: int
    decides: tuple[str, ...] = ("color", "thing")
    pictures: str = "color"
    titles: str = "thing"
    attributes: bool = False
    popularity: float = 0.5
    taste: float = 1.5
    click_rate: float = 0.2
    lifetime: float = 0.0


SHOPS = {
    "500_rows": GeneratedShop(500, 60, 40),
    "2000_rows_pictures": GeneratedShop(2_000, 200, 100, decides=("color",), titles="random"),
    "20000_rows_pictures": GeneratedShop(20_000, 1_000, 600, decides=("color",), titles="random"),
    "pictures_do_not_matter": GeneratedShop(20_000, 1_000, 600, decides=("thing",), pictures="random"),
    "words_only": GeneratedShop(40_000, 2_000, 1_000, decides=("thing",), pictures="none"),
    "ids_only": GeneratedShop(40_000, 300, 800, pictures="none", titles="none"),
    "three_users": GeneratedShop(20_000, 500, 3),
    "all_cold": GeneratedShop(40_000, 6_000, 800, lifetime=1.0),
    "noise_labels": GeneratedShop(20_000, 500, 500, taste=0.0, popularity=0.0),
    "popularity_only": GeneratedShop(40_000, 800, 1_500, taste=0.0, popularity=1.0),
    "rare_clicks": GeneratedShop(60_000, 1_000, 2_000, click_rate=0.02),
    "200000_rows_attributes": GeneratedShop(
        200_000, 5_000, 6_000, decides=("thing", "brand"), pictures="none", attributes=True
    ),
}


def write_shop(shop: GeneratedShop, folder: Path, seed: int = 0) -> np.ndarray:
    """Writes `items.csv`, `impressions.csv` and, where the shop has pictures, the folder `pictures`.

    Args:
        shop: What to generate.
        folder: Is made.
        seed: Of all random numbers.

    Returns:
        The click probability of each impression, in the order of the file, float [rows].
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"color": len(COLORS), "thing": len(THINGS), "brand": 12}
    item_kind = {name: rng.integers(0, count, shop.items) for name, count in kinds.items()}
    launch = rng.uniform(-shop.lifetime, DAYS, shop.items) if shop.lifetime else np.zeros(shop.items)
    prices = np.exp(rng.normal(3, 0.6, shop.items)).round(2)
    _write_items(shop, folder, item_kind, prices, rng)

    requests = -(-shop.rows // SLATE)
    user = np.repeat(rng.integers(0, shop.users, requests), SLATE)[: shop.rows]
    when = np.repeat(np.sort(rng.uniform(0, DAYS, requests)), SLATE)[: shop.rows]
    weight = 1 / np.arange(1, shop.items + 1) ** 0.5
    item = rng.choice(shop.items, shop.rows, p=weight / weight.sum())
    if shop.lifetime:
        order = np.argsort(launch)
        first, last = (np.searchsorted(launch[order], when - back) for back in (shop.lifetime, 0.0))
        item = order[
            np.minimum(first + rng.integers(0, 1 << 30, shop.rows) % np.maximum(last - first, 1), shop.items - 1)
        ]
    logit = np.full(shop.rows, np.log(shop.click_rate / (1 - shop.click_rate)))
    logit += shop.popularity * rng.normal(size=shop.items)[item]
    for name in shop.decides:
        liked = rng.normal(size=(shop.users, kinds[name]))
        logit += shop.taste / np.sqrt(len(shop.decides)) * liked[user, item_kind[name][item]]
    probability = 1 / (1 + np.exp(-logit))
    log = pd.DataFrame(
        {
            "visitor": np.char.add("v", user.astype(str)),
            "product": np.char.add("p", item.astype(str)),
            "shown_at": pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(when, unit="D").round("s"),
            "clicked": (rng.random(shop.rows) < probability).astype(int),
        }
    )
    log.to_csv(folder / "impressions.csv", index=False)
    return np.asarray(probability)


def _write_items(
    shop: GeneratedShop, folder: Path, kind: dict[str, np.ndarray], prices: np.ndarray, rng: np.random.Generator
) -> None:
    table = pd.DataFrame({"product": [f"p{n}" for n in range(shop.items)]})
    words = rng.choice(ADJECTIVES, (shop.items, 2))
    names = {"thing": kind["thing"], "random": rng.integers(0, len(THINGS), shop.items)}
    if shop.titles != "none":
        table["name"] = [f"{a} {b} {THINGS[t]}" for (a, b), t in zip(words, names[shop.titles], strict=True)]
    if shop.attributes:
        table["brand"] = [f"brand {number}" for number in kind["brand"]]
        table["price"] = prices
    if shop.titles == "none" and not shop.attributes:
        table["name"] = ""
    if shop.pictures != "none":
        (folder / "pictures").mkdir(exist_ok=True)
        shown = kind["color"] if shop.pictures == "color" else rng.integers(0, len(COLORS), shop.items)
        table["picture"] = [f"p{n}.png" for n in range(shop.items)]
        for number, color in enumerate(shown):
            pixels = np.full((SIZE, SIZE, 3), 245.0)
            left, top = rng.integers(4, 16, 2)
            pixels[top : top + 28, left : left + 28] = COLORS[color] + rng.normal(0, 15, 3)
            noisy = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
            packed = io.BytesIO()
            Image.fromarray(noisy).save(packed, "PNG")
            (folder / "pictures" / f"p{number}.png").write_bytes(packed.getvalue())
    table.to_csv(folder / "items.csv", index=False)
