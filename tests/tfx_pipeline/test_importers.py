"""MovieLens in each layout, and the generated shop."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import SMALL
from tfx_pipeline.importers.movielens import MovieLensError, import_movielens
from tfx_pipeline.importers.sample import generate_sample
from tfx_pipeline.importers.tables import ImportFolderError


def rows(folder: Path, table: str) -> list[dict]:
    return pq.read_table(folder / f"{table}.parquet").to_pylist()


def test_one_million_layout(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    (source / "movies.dat").write_bytes("1::Café (1995)::Comedy|Drama\n2::Heat (1995)::Crime\n".encode("latin-1"))
    (source / "users.dat").write_text("7::F::1::10::48067\n")
    (source / "ratings.dat").write_text("7::2::4::978300760\n7::1::3::978300700\n")
    counts = import_movielens(source, tmp_path / "to")
    assert counts["impressions"] == 2
    assert counts["clicks"] == 1
    items = rows(tmp_path / "to", "items")
    assert (items[0]["title"], items[0]["category"], items[0]["image"]) == ("Café (1995)", "Comedy|Drama", None)
    first, second = rows(tmp_path / "to", "impressions")
    assert (first["item_id"], first["clicked"], second["item_id"], second["clicked"]) == ("1", 0, "2", 1)
    assert rows(tmp_path / "to", "users")[0]["age"] == "under 18"


def test_latest_layout(tmp_path: Path) -> None:
    source = tmp_path / "from"
    (source / "posters96").mkdir(parents=True)
    (source / "movies.csv").write_text('movieId,title,genres\n1,"Toy, Story",Comedy\n2,Heat,(no genres listed)\n')
    with gzip.open(source / "ratings.csv.gz", "wt") as file:
        file.write("userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,2,3.5,964982703\n1,9,5,964982800\n")
    Image.new("RGB", (4, 4)).save(source / "posters96/1.jpg")
    counts = import_movielens(source, tmp_path / "to")
    assert counts["left out: movie not in the catalogue"] == 1
    assert counts["pictures"] == 1
    assert rows(tmp_path / "to", "items")[1]["category"] is None
    assert [row["sequence"] for row in rows(tmp_path / "to", "impressions")] == [0, 1], "ties keep the file's order"


def test_enriched_layout_never_lets_time_run_against_the_order(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    (source / "items.tsv").write_text(
        'movie_id\ttitle\tgenres\tplot\tdirector\n1\tA (1947)\tX\t"He said ""no"""\tJ. Doe\n2\tB\tY\t\t\n3\tC\tY\t\t\n'
    )
    (source / "interactions.tsv").write_text(
        "user_id\tmovie_id\trating\tseq\tts\n1\t1\t5\t2\t978300000\n1\t2\t5\t1\t978300500\n1\t3\t1\t0\t0\n2\t3\t4\t1\t978300100\n"
    )
    counts = import_movielens(source, tmp_path / "to")
    assert counts["left out: place in the user's order unknown"] == 1
    plot, abstract, people, tags = rows(tmp_path / "to", "items")[0]["text"].split("\n")
    assert (plot, abstract, people) == ('He said "no"', "", "Directed by J. Doe.")
    assert tags == "#genre:x #from:1945 #around:1944 #around:1948 #around:1952 #by:j.-doe"
    assert rows(tmp_path / "to", "items")[1]["text"] == "\n\n\n#genre:y"
    own = [(r["timestamp"], r["item_id"]) for r in rows(tmp_path / "to", "impressions") if r["user_id"] == "1"]
    assert own == [(978300500, "2"), (978300500, "1")]


def test_a_folder_that_is_no_movielens(tmp_path: Path) -> None:
    with pytest.raises(MovieLensError, match="holds none of items.tsv, movies.dat and movies.csv"):
        import_movielens(tmp_path, tmp_path / "to")
    (tmp_path / "movies.dat").write_text("1::only two\n")
    with pytest.raises(MovieLensError, match="movies.dat line 1: 3 fields divided by '::' expected, got 2"):
        import_movielens(tmp_path, tmp_path / "to")


def test_the_shop_is_the_same_for_the_same_seed(shop: Path, tmp_path: Path) -> None:
    generate_sample(tmp_path, SMALL, seed=3)
    for table in ("items", "impressions", "intents"):
        assert pq.read_table(tmp_path / f"{table}.parquet").equals(pq.read_table(shop / f"{table}.parquet"))
    generate_sample(tmp_path, SMALL, seed=4)
    assert not pq.read_table(tmp_path / "items.parquet").equals(pq.read_table(shop / "items.parquet"))


def test_the_shop_keeps_its_promises(shop: Path) -> None:
    items, impressions, intents = (rows(shop, table) for table in ("items", "impressions", "intents"))
    assert len(items) == SMALL.items
    assert len(impressions) == SMALL.impressions
    times = np.array([row["timestamp"] for row in impressions])
    assert np.all(np.diff(times) >= 0)
    launch = {row["item_id"]: row["created_at"] for row in items}
    assert all(row["timestamp"] >= launch[row["item_id"]] for row in impressions)
    late = times.min() + (times.max() - times.min()) * 0.89
    new = {item for item, moment in launch.items() if moment > times.min()}
    assert len(new) == SMALL.items // 10
    assert all(row["timestamp"] > late for row in impressions if row["item_id"] in new)
    assert 0.15 < np.mean([row["clicked"] for row in impressions]) < 0.45
    assert any(row["image"] is None for row in items)
    assert any(row["title"] is None for row in items)
    pictures = [Image.open(io.BytesIO(row["image"])) for row in items if row["image"]]
    assert {picture.format for picture in pictures} == {"PNG", "JPEG"}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert {bool(row["query_text"]) for row in intents} == {True, False}
    oracle = json.loads((shop / "oracle.json").read_text())
    assert 0.75 < oracle["auc"] < 0.97


def test_an_import_writes_beside_nobodys_data(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/items.csv").write_text("item_id\n1\n")
    for write in (lambda: generate_sample(tmp_path / "mine"), lambda: import_movielens(tmp_path, tmp_path / "mine")):
        with pytest.raises(ImportFolderError, match=r"holds items.csv. Choose another folder"):
            write()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["items.csv"]
