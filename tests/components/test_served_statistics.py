"""A ranker is served the statistics that it was trained on: a day of a log, replayed against the table of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import artifact_utils

from components.contract.schema import Schema
from components.history_gen.span_statistics import entity_names
from mim_keras.serving.statistics_lookup import StatisticsLookup, StatisticsTable
from tests.components.runner import Flags, run_catalogue, run_histories, run_impressions
from tfx_pipeline.run_fns.statistics import read_statistics

DAY, START = 86_400, 1_700_006_400  # a midnight
DAYS, USERS, ITEMS = 6, 30, 40
KINDS = {"category": "list", "brand": "categorical", "price": "number"}
SCHEMA = Schema.from_yaml("items: {columns: {brand: brand, price: {type: number}, season: {type: date}}}")
SPEC = json.dumps({"attributes": KINDS, "seconds": DAY, "dates": ["created_at", "season"]})


def write_shop(folder: Path, days: int) -> Path:
    """The first days of one log; the catalogue is that of the last day."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    items = {
        "item_id": [f"i{n}" for n in range(ITEMS)],
        "title": [f"thing {n}" for n in range(ITEMS)],
        "category": [["mug", "cup"] if n % 3 else [] for n in range(ITEMS)],
        "brand": [f"brand {n % 4}" for n in range(ITEMS)],
        "price": [float(n) if n % 5 else None for n in range(ITEMS)],
        "created_at": [START + n * 20_000 if n % 7 else None for n in range(ITEMS)],
        "season": [["2023-11-01", "2023-11-15", None][n % 3] for n in range(ITEMS)],
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    count = 3_000
    log = {
        "user_id": [f"u{n}" for n in rng.integers(0, USERS, count)],
        # One item is shown, and one user comes, on the last day alone.
        "item_id": [f"i{n}" for n in rng.integers(0, ITEMS - 1, count)],
        "timestamp": np.sort(rng.integers(START, START + DAYS * DAY, count)),
        "clicked": rng.integers(0, 2, count),
    }
    log["user_id"][-1], log["item_id"][-1] = "new user", f"i{ITEMS - 1}"
    table = pa.table(log)
    pq.write_table(table.filter(table["timestamp"].to_numpy() < START + days * DAY), folder / "impressions.parquet")
    return folder


def examples_and_table(data: Path, out: Path, args: Flags = ()) -> tuple[Any, StatisticsTable]:
    schema = SCHEMA.to_json()
    items = run_catalogue(data, out, schema=schema)
    impressions = run_impressions(data, out, items, schema=schema)
    flags = {"args": args} if args else {}
    examples = run_histories(data, out, impressions, items=items, schema=schema, statistics_spec=SPEC, **flags)
    item_ids = np.array([f"i{n}" for n in range(ITEMS)])
    return examples, read_statistics(str(out / "statistics_table"), tuple(KINDS), item_ids)


def rows_of(examples: Any) -> list[tuple[str, str, int, list[int]]]:
    """User, item, timestamp, statistics of each example."""
    rows = []
    for split in ("train", "valid", "test"):
        for file in tf.io.gfile.glob(f"{artifact_utils.get_split_uri([examples], split)}/*"):
            for record in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
                feature = tf.train.Example.FromString(record).features.feature
                user, item = (feature[name].bytes_list.value[0].decode() for name in ("user_id", "item_id"))
                counts = list(feature["statistics"].int64_list.value)
                rows.append((user, item, feature["timestamp"].int64_list.value[0], counts))
    return rows


@pytest.fixture(scope="module")
def last_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], StatisticsTable]:
    """The examples of the last day of the whole log, and the table of a run that ended the day before."""
    folder = tmp_path_factory.mktemp("replay")
    examples, _ = examples_and_table(write_shop(folder / "whole", DAYS), folder / "whole_out")
    _, table = examples_and_table(write_shop(folder / "before", DAYS - 1), folder / "before_out")
    rows = [row for row in rows_of(examples) if row[2] >= START + (DAYS - 1) * DAY]
    assert len(rows) > 300
    return rows, table


def test_the_replayed_day_gives_identical_statistics(last_day: tuple[list[Any], StatisticsTable]) -> None:
    rows, table = last_day
    assert table.as_of == START + (DAYS - 1) * DAY
    look_up = tf.function(StatisticsLookup(table))
    for user in {row[0] for row in rows}:
        own = [row for row in rows if row[0] == user]
        candidates = tf.constant([int(row[1][1:]) + 1 for row in own])
        assert look_up(tf.constant([user]), candidates).numpy().tolist() == [row[3] for row in own]
    counts = np.array([row[3] for row in rows])
    assert counts.shape[1] == 3 * len(entity_names(KINDS)) + 2
    assert (counts.max(axis=0) > 0).all()
    for (_, item, _, _), (created, season) in zip(rows, counts[:, -2:].tolist(), strict=True):
        number = int(item[1:])
        assert created == (max(table.as_of - START - number * 20_000, 0) if number % 7 else -1)
        assert season == [table.as_of - 1_698_796_800, table.as_of - 1_700_006_400, -1][number % 3]


def test_values_given_for_a_candidate_are_counted_as_an_items_own(
    last_day: tuple[list[Any], StatisticsTable],
) -> None:
    rows, table = last_day
    look_up = StatisticsLookup(table)
    users = sorted({row[0] for row in rows})[:5]
    twins = [n for n in range(1, 30) if n % 3 and n % 5]
    brand = tf.ragged.constant([[f"brand {n % 4}"] for n in twins])
    category = tf.ragged.constant([["mug", "cup", "unheard-of"]] * len(twins))
    price = {name: table.attributes[name] for name in KINDS}["price"]
    bounds = price.item_offsets
    names = [price.values[price.item_values[bounds[n + 1]]].decode() for n in twins]
    given = {"brand": brand, "category": category, "price": tf.ragged.constant([[name] for name in names])}
    first = 3 * entity_names(KINDS).index("category")
    for user in users:
        own = look_up(tf.constant([user]), tf.constant([n + 1 for n in twins])).numpy()
        new = look_up(tf.constant([user]), tf.zeros([len(twins)], tf.int32), given).numpy()
        assert new[:, first:-2].tolist() == own[:, first:-2].tolist()
        assert (own[:, first:-2] > 0).any()
        nothing = {
            name: tf.RaggedTensor.from_row_lengths(tf.constant([], tf.string), [0] * len(twins)) for name in KINDS
        }
        kept = look_up(tf.constant([user]), tf.constant([n + 1 for n in twins]), nothing).numpy()
        assert kept.tolist() == own.tolist()


def test_unknown_users_and_items_have_no_counts(last_day: tuple[list[Any], StatisticsTable]) -> None:
    _, table = last_day
    padding, last = (
        StatisticsLookup(table)(tf.constant(["nobody"]), tf.constant([0, ITEMS])).numpy()[:, :-2].reshape(2, -1, 3)
    )
    names = entity_names(KINDS)
    for name, counts in zip(names, padding.tolist(), strict=True):
        assert (counts == [0, 0, -1]) == (name != "overall")
    for name, counts in zip(names, last.tolist(), strict=True):
        known = name in ("overall", "brand", "price") or (name == "category" and (ITEMS - 1) % 3 > 0)
        assert (counts == [0, 0, -1]) == (not known), name


def test_the_table_is_the_same_with_several_workers(tmp_path: Path) -> None:
    data = write_shop(tmp_path / "shop", DAYS)
    workers = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    one, table_of_one = examples_and_table(data, tmp_path / "one")
    two, table_of_two = examples_and_table(data, tmp_path / "two", workers)
    assert sorted(rows_of(one)) == sorted(rows_of(two))
    users = np.argsort(table_of_one.user_ids), np.argsort(table_of_two.user_ids)
    assert (table_of_one.users[1:][users[0]] == table_of_two.users[1:][users[1]]).all()
    assert (table_of_one.items == table_of_two.items).all()
