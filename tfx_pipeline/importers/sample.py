"""Generates the sample shop: drawn pictures, written titles, people with hidden tastes.

Because the truth is known, the area under the ROC curve that a perfect model would reach is written beside
the data (`oracle.json`): everything a model learns can be held against it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mim_keras.metrics.gauc import auc
from tfx_pipeline.importers import sample_pictures as pictures
from tfx_pipeline.importers.tables import check_folder, write_table

CATEGORIES = ("mug", "cushion", "lamp", "bag", "rug", "vase", "plate", "clock")
ATTRIBUTES = {
    "colour": tuple(pictures.COLOURS),
    "shape": pictures.SHAPES,
    "pattern": pictures.PATTERNS,
    "texture": pictures.TEXTURES,
    "category": CATEGORIES,
}
# How strongly people care about each attribute.
CARE = {"colour": 3.5, "shape": 3.5, "pattern": 1.0, "texture": 0.5, "category": 0.4}
WORDS = {
    "smooth": ("smooth", "satin", "polished"),
    "grainy": ("grainy", "rough", "sanded"),
    "woven": ("woven", "knitted", "braided"),
    "marbled": ("marbled", "swirled", "veined"),
}
PRAISE = ("lovely", "classic", "handmade", "modern", "little", "new", "favourite", "simple")
START = 1_700_000_000  # seconds since 1970, when the shop opens
DAY = 86_400


@dataclass(frozen=True)
class SampleSize:
    """How large a shop to make."""

    items: int = 1_000
    users: int = 3_000
    impressions: int = 120_000
    intents: int = 5_000
    days: int = 30
    styles: int = 12  # groups of people with like tastes
    new_fraction: float = 0.1  # of the items, launched in the last tenth of the time


def generate_sample(folder: Path, size: SampleSize | None = None, seed: int = 20250203) -> dict[str, float]:
    """Writes items, impressions, intents and `oracle.json` into `folder`.

    Returns:
        The oracle: `auc` and `cold_auc` of the true click probabilities on the last tenth of the impressions,
        cold meaning items with at most five clicks in the first eight tenths; and the rows behind each.

    Raises:
        ImportFolderError: the folder holds what no import wrote.
    """
    check_folder(folder, "oracle.json")
    size = size or SampleSize()
    rng = np.random.default_rng(seed)
    codes = {name: rng.integers(0, len(values), size.items) for name, values in ATTRIBUTES.items()}
    horizon = size.days * DAY
    is_new = np.zeros(size.items, bool)
    is_new[rng.permutation(size.items)[: round(size.items * size.new_fraction)]] = True
    created = np.where(is_new, START + horizon * 9 // 10 + rng.integers(0, DAY // 2, size.items), START - DAY)

    _write_items(folder, rng, codes, created)
    tastes = _tastes(rng, size)
    affinity = sum(CARE[name] * tastes[name][:, codes[name]] for name in ATTRIBUTES)
    assert isinstance(affinity, np.ndarray)
    user_bias = rng.normal(0, 0.4, size.users)
    item_quality = rng.normal(0, 0.2, size.items)
    logits = affinity + user_bias[:, None] + item_quality[None, :] - 4.0

    user, item, timestamp, sequence = _visits(rng, size, created)
    probability = 1 / (1 + np.exp(-logits[user, item]))
    clicked = (rng.random(len(user)) < probability).astype(np.int64)
    write_table(
        folder,
        "impressions",
        {
            "user_id": [f"u{u:05d}" for u in user],
            "item_id": [f"i{i:05d}" for i in item],
            "timestamp": timestamp,
            "clicked": clicked,
            "sequence": sequence,
        },
    )
    _write_intents(folder, rng, size, codes, affinity, created)
    oracle = _oracle(item, clicked, probability)
    (folder / "oracle.json").write_text(json.dumps(oracle, indent=2) + "\n")
    return oracle


def _write_items(folder: Path, rng: np.random.Generator, codes: dict[str, np.ndarray], created: np.ndarray) -> None:
    columns: dict[str, list] = {name: [] for name in ("item_id", "title", "text", "category", "image", "created_at")}
    for i in range(len(created)):
        words = {name: ATTRIBUTES[name][codes[name][i]] for name in ATTRIBUTES}
        # Three in a hundred have no picture, three others no words: a missing modality is part of life.
        no_picture, no_words = i % 100 in (17, 51, 83), i % 100 in (5, 38, 72)
        kind = "JPEG" if i % 2 else "PNG"
        drawn = pictures.draw_picture(
            rng, words["colour"], words["shape"], words["pattern"], words["texture"], kind=kind
        )
        title, text = describe(rng, words)
        columns["item_id"].append(f"i{i:05d}")
        columns["title"].append(None if no_words else title)
        columns["text"].append(None if no_words else text)
        columns["category"].append(words["category"])
        columns["image"].append(None if no_picture else drawn)
        columns["created_at"].append(int(created[i]))
    write_table(folder, "items", columns)


def describe(rng: np.random.Generator, words: dict[str, str]) -> tuple[str, str]:
    """A title and a text that name the attributes."""
    texture = rng.choice(WORDS[words["texture"]])
    praise = rng.choice(PRAISE)
    order = [words["colour"], words["pattern"], words["shape"]]
    rng.shuffle(order)
    title = f"{praise} {' '.join(order)} {words['category']}".capitalize()
    text = f"A {texture} {words['category']} with a {words['pattern']} {words['shape']} in {words['colour']}."
    return title, text


def _tastes(rng: np.random.Generator, size: SampleSize) -> dict[str, np.ndarray]:
    """For each attribute, how much each user likes each of its values: [users, values]."""
    style = rng.integers(0, size.styles, size.users)
    tastes = {}
    for name, values in ATTRIBUTES.items():
        # A style favours a fifth of the values, and everybody has a favourite of their own.
        favourites = max(1, len(values) // 5)
        shared = _favour(rng, size.styles, len(values), favourites)[style]
        own = _favour(rng, size.users, len(values), 1)
        tastes[name] = np.maximum(shared, own) + rng.normal(0, 0.1, (size.users, len(values)))
    return tastes


def _favour(rng: np.random.Generator, rows: int, values: int, favourites: int) -> np.ndarray:
    """1 at `favourites` random values of each row, else 0: [rows, values]."""
    rank = np.argsort(np.argsort(rng.random((rows, values)), axis=1), axis=1)
    return (rank < favourites).astype(float)


def _visits(
    rng: np.random.Generator, size: SampleSize, created: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Who saw what, when: visits of eight impressions, items by popularity among those on sale."""
    per_visit = 8
    visits = size.impressions // per_visit
    activity = rng.gamma(2.0, 1.0, size.users)
    user = rng.choice(size.users, visits, p=activity / activity.sum())
    begin = np.sort(rng.integers(START, START + size.days * DAY, visits))
    popularity = 1 / (5 + np.arange(size.items)) ** 0.6
    popularity = rng.permutation(popularity)
    launched_late = created > START
    popularity[launched_late] = popularity.mean() * 2.0  # a shop shows what is new
    score = np.log(popularity)[None, :] + rng.gumbel(size=(visits, size.items)).astype(np.float32)
    score[created[None, :] > begin[:, None]] = -np.inf
    item = np.argpartition(-score, per_visit, axis=1)[:, :per_visit]
    timestamp = begin[:, None] + np.cumsum(rng.integers(2, 40, (visits, per_visit)), axis=1)
    order = np.argsort(timestamp.ravel(), kind="stable")
    flat_user = np.repeat(user, per_visit)[order]
    return flat_user, item.ravel()[order], timestamp.ravel()[order], np.arange(visits * per_visit)


def _write_intents(
    folder: Path,
    rng: np.random.Generator,
    size: SampleSize,
    codes: dict[str, np.ndarray],
    affinity: np.ndarray,
    created: np.ndarray,
) -> None:
    """A query in words or as a picture, then the item that was bought: one that fits it well."""
    columns: dict[str, list] = {name: [] for name in ("query_image", "query_text", "item_id", "signal", "timestamp")}
    moments = np.sort(rng.integers(START, START + size.days * DAY, size.intents))
    for moment in moments:
        on_sale = np.flatnonzero(created <= moment)
        buyer = rng.integers(0, size.users)
        wish = affinity[buyer, on_sale] + rng.gumbel(size=len(on_sale))
        item = int(on_sale[np.argmax(wish)])
        words = {name: ATTRIBUTES[name][codes[name][item]] for name in ATTRIBUTES}
        by_picture = rng.random() < 0.5
        drawn = None
        if by_picture:
            drawn = pictures.draw_picture(
                rng, words["colour"], words["shape"], words["pattern"], words["texture"], kind="JPEG"
            )
        asked = [words["colour"], words["shape"], words["pattern"]]
        if rng.random() < 0.3:
            asked.pop(int(rng.integers(0, 3)))
        columns["query_image"].append(drawn)
        columns["query_text"].append(None if by_picture else " ".join([*asked, words["category"]]))
        columns["item_id"].append(f"i{item:05d}")
        columns["signal"].append(str(rng.choice(["click", "cart", "order"], p=[0.5, 0.2, 0.3])))
        columns["timestamp"].append(int(moment))
    write_table(folder, "intents", columns)


def _oracle(item: np.ndarray, clicked: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    rows = len(item)
    train, test = slice(0, rows * 8 // 10), slice(rows * 9 // 10, rows)
    clicks = np.bincount(item[train], weights=clicked[train], minlength=item.max() + 1)
    cold = clicks[item[test]] <= 5
    return {
        "auc": auc(clicked[test], probability[test]),
        "cold_auc": auc(clicked[test][cold], probability[test][cold]),
        "rows": int(rows - rows * 9 // 10),
        "cold_rows": int(cold.sum()),
        "click_rate": float(clicked.mean()),
    }
