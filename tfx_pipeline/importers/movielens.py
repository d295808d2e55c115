"""Reads MovieLens in its published layouts (and as TSV with exact order) into the data contract.

Layouts, found by the files that are there:

* 1M: `ratings.dat`, `movies.dat`, `users.dat` (fields divided by `::`, latin-1)
* latest: `ratings.csv`, `movies.csv`
* enriched: `interactions.tsv` with `seq`, or `ratings.csv`, beside `items.tsv` with plots and abstracts

Any of them may be gzipped.  Posters are taken from `posters*/<movie id>.jpg`.  A rating of four or more is a click.
Genres, years and people also stand in the text, as tags.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfx_pipeline.importers.tables import check_folder, write_table

CLICK_RATING = 4.0
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 and over",
}


class MovieLensError(ValueError):
    """The folder is not a MovieLens folder this importer knows, or a file in it is broken."""


def import_movielens(source: Path, folder: Path) -> dict[str, int]:
    """Writes items, impressions and, where there are any, users of the MovieLens folder `source` into `folder`.

    Returns:
        Counts: ratings read, impressions written, ratings left out and why, items, pictures.

    Raises:
        MovieLensError: no known layout, or a broken row (file and line are named).
        ImportFolderError: the folder holds what no import wrote.
    """
    check_folder(folder, "import.json")
    counts: dict[str, int] = {}
    items = _read_items(source)
    counts["items"], counts["pictures"] = _write_items(source, folder, items)
    if path := _find(source, "users.dat"):
        users = list(_rows(path, ("user_id", "gender", "age", "occupation", "zip")))
        write_table(
            folder,
            "users",
            {
                "user_id": [row["user_id"] for row in users],
                "gender": [row["gender"] for row in users],
                "age": [_AGES.get(row["age"], row["age"]) for row in users],
                "occupation": [row["occupation"] for row in users],
            },
        )
        counts["users"] = len(users)
    counts |= _write_impressions(source, folder, {row["movie_id"] for row in items})
    (folder / "import.json").write_text(json.dumps(counts, indent=2) + "\n")
    return counts


def _find(source: Path, name: str) -> Path | None:
    return next((path for path in (source / name, source / f"{name}.gz") if path.is_file()), None)


def _rows(path: Path, names: tuple[str, ...] | None = None) -> Iterator[dict[str, str]]:
    """Rows of a `.dat`, `.csv` or `.tsv` file; `names` for files without a header."""
    plain = path.name.removesuffix(".gz")
    encoding = "latin-1" if plain.endswith(".dat") else "utf-8"
    unzip = gzip.open if path.name.endswith(".gz") else open
    with unzip(path, "rb") as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
        if plain.endswith(".dat"):
            assert names is not None
            for number, line in enumerate(text, 1):
                fields = line.rstrip("\r\n").split("::")
                if len(fields) != len(names):
                    raise MovieLensError(
                        f"{path} line {number}: {len(names)} fields divided by '::' expected, got {len(fields)}"
                    )
                yield dict(zip(names, fields, strict=True))
        else:
            yield from csv.DictReader(text, delimiter="\t" if plain.endswith(".tsv") else ",")


def _read_items(source: Path) -> list[dict[str, str]]:
    if path := _find(source, "items.tsv"):
        return list(_rows(path))
    if path := _find(source, "movies.dat"):
        return list(_rows(path, ("movie_id", "title", "genres")))
    if path := _find(source, "movies.csv"):
        return [{"movie_id": row["movieId"], **row} for row in _rows(path)]
    raise MovieLensError(
        f"{source} holds none of items.tsv, movies.dat and movies.csv; point --from at a MovieLens folder"
    )


def _write_items(source: Path, folder: Path, items: list[dict[str, str]]) -> tuple[int, int]:
    posters = {path.stem: path for path in source.glob("posters*/*.jpg")}
    columns: dict[str, list] = {name: [] for name in ("item_id", "title", "text", "category", "image")}
    for row in items:
        people = [f"Directed by {row['director']}." if row.get("director") else ""]
        people.append(f"With {row['actors']}." if row.get("actors") else "")
        poster = posters.get(row["movie_id"])
        genres = row.get("genres") or ""
        # Plot, abstract, people and tags: a line each, so that they can be told apart.
        said = [row.get("plot"), row.get("dbpedia_abstract"), " ".join(people), " ".join(_tags(row))]
        lines = [" ".join((line or "").split()) for line in said]
        columns["item_id"].append(row["movie_id"])
        columns["title"].append(row["title"])
        columns["text"].append("\n".join(lines) if any(lines) else None)
        columns["category"].append(None if "no genres" in genres or not genres else genres)
        columns["image"].append(poster.read_bytes() if poster else None)
    write_table(folder, "items", columns)
    return len(items), sum(image is not None for image in columns["image"])


def _tags(row: dict[str, str]) -> list[str]:
    """What is known of a film for certain: `#genre:film-noir #from:1945` (five years) `#by:john-huston`, and, of a film
    of 1947, `#around:1944 #around:1948`, years that lie near."""
    genres = [genre for genre in (row.get("genres") or "").split("|") if genre and "no genres" not in genre]
    years = [row["year"]] if row.get("year") else re.findall(r"\((\d{4})\)\s*$", row["title"])
    people = f"{row.get('director') or ''},{row.get('actors') or ''}".split(",")
    tags = [("genre", genre) for genre in genres]
    tags += [("from", str(int(year) // 5 * 5)) for year in years if year.isdigit()]
    tags += [("around", str(near)) for year in years if year.isdigit() for near in _near(int(year))]
    tags += [("by", person.strip()) for person in people if person.strip()]
    return [f"#{field}:{name.lower().replace(' ', '-')}" for field, name in tags]


def _near(year: int, apart: int = 4, within: int = 5) -> list[int]:
    """Every fourth year that is at most five away: films of neighbouring years share most of them."""
    return [near for near in range(year - within, year + within + 1) if near % apart == 0]


def _write_impressions(source: Path, folder: Path, known_items: set[str]) -> dict[str, int]:
    if path := _find(source, "interactions.tsv"):
        rows = [(r["user_id"], r["movie_id"], r["rating"], r["ts"], r["seq"]) for r in _rows(path)]
    elif path := _find(source, "ratings.dat"):
        names = ("user_id", "movie_id", "rating", "ts")
        rows = [(r["user_id"], r["movie_id"], r["rating"], r["ts"], "") for r in _rows(path, names)]
    elif path := _find(source, "ratings.csv"):
        rows = [(r["userId"], r["movieId"], r["rating"], r["timestamp"], "") for r in _rows(path)]
    else:
        raise MovieLensError(f"{source} holds none of interactions.tsv, ratings.dat and ratings.csv")
    user, item, rating_text, time_text, sequence_text = (np.array(column) for column in zip(*rows, strict=True))
    try:
        rating, timestamp = rating_text.astype(float), time_text.astype(np.int64)
    except ValueError as error:
        raise MovieLensError(f"{path}: a rating or a timestamp is not a number: {error}") from error
    has_order = sequence_text[0] != ""
    sequence = sequence_text.astype(np.int64) if has_order else np.arange(len(user))

    keep = np.isin(item, sorted(known_items))
    unknown_order = (sequence == 0) if has_order else np.zeros(len(user), bool)
    counts = {
        "ratings": len(user),
        "left out: movie not in the catalogue": int((~keep).sum()),
        "left out: place in the user's order unknown": int((keep & unknown_order).sum()),
    }
    keep &= ~unknown_order
    user, item, rating, timestamp, sequence = (a[keep] for a in (user, item, rating, timestamp, sequence))
    if has_order:  # the order is exact, some times are estimates: never let time run against the order
        timestamp = _monotone(user, sequence, timestamp)
    order = np.lexsort((sequence, timestamp))
    write_table(
        folder,
        "impressions",
        {
            "user_id": user[order],
            "item_id": item[order],
            "timestamp": timestamp[order],
            "clicked": (rating[order] >= CLICK_RATING).astype(np.int64),
            "sequence": sequence[order],
        },
    )
    return counts | {"impressions": len(user), "clicks": int((rating >= CLICK_RATING).sum())}


def _monotone(user: np.ndarray, sequence: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """The running maximum of `timestamp` along each user's `sequence`."""
    order = np.lexsort((sequence, user))
    users, times = user[order], timestamp[order]
    _, code = np.unique(users, return_inverse=True)
    offset = code.astype(np.int64) * (int(times.max()) + 1)  # one running maximum serves all users
    result = np.empty_like(timestamp)
    result[order] = np.maximum.accumulate(times + offset) - offset
    return result
