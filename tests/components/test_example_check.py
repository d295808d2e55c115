"""Each kind of anomaly stops the run, with a message that says where and what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tfx.components.statistics_gen.executor import Executor as StatisticsExecutor
from tfx.types import standard_artifacts

from components.example_check.executor import AnomalyError, Executor
from tests.components.runner import executor, run_catalogue
from tfx_pipeline.importers.sample_pictures import draw_picture
from tfx_pipeline.keep_schema import watched
from tfx_pipeline.pipeline import MONITORED_ITEM_FEATURES

ITEMS = 200
Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    pictures = [draw_picture(rng, colour, "heart", "striped", "smooth") for colour in ("red", "blue")]
    return [
        {
            "item_id": f"i{n:03d}",
            "title": f"item {n}",
            "category": ("mug", "lamp", "rug")[n % 3],
            "image": pictures[n % 2] if n % 20 else None,
        }
        for n in range(ITEMS)
    ]


def statistics(folder: Path, rows: list[dict[str, Any]]) -> Any:
    """Of the items that CatalogueGen makes of these rows, as the pipeline has them made."""
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/items.parquet")
    items, made = run_catalogue(folder / "data", folder), standard_artifacts.ExampleStatistics()
    made.uri = str(folder / "statistics")
    options = tfdv.StatsOptions(feature_allowlist=list(MONITORED_ITEM_FEATURES)).to_json()
    properties = {"stats_options_json": options, "exclude_splits": "[]"}
    executor(StatisticsExecutor).Do({"examples": [items]}, {"statistics": [made]}, properties)
    return made


def check(folder: Path, found: Any, kept: str, released: Any = None, table: str = "items", stop: int = 1) -> None:
    anomalies, schema = standard_artifacts.ExampleAnomalies(), standard_artifacts.Schema()
    anomalies.uri, schema.uri = str(folder / "anomalies"), str(folder / "schema")
    properties = {"table": table, "kept_schema": kept, "stop": stop}
    inputs = {"statistics": [found], "schema": [schema]} | ({"released_statistics": [released]} if released else {})
    Executor().Do(inputs, {"anomalies": [anomalies]}, properties)


def schema_of(found: Any) -> str:
    inferred = tfdv.infer_schema(tfdv.load_stats_binary(f"{found.uri}/Split-train/FeatureStats.pb"))
    return text_format.MessageToString(watched(inferred))


@pytest.fixture(scope="module")
def passed(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A schema that is kept, and the statistics of data that passed."""
    folder = tmp_path_factory.mktemp("passed")
    found = statistics(folder, rows)
    kept = schema_of(found)
    check(folder, found, kept)
    return kept, found


def new_category(rows: list[dict[str, Any]]) -> None:
    for row in rows[::10]:
        row["category"] = "spaceship"


def other_shares(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["category"] == "rug" and int(row["item_id"][1:]) % 2:
            row["category"] = "mug"


def vanished_column(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        del row["category"]


def missing_images(rows: list[dict[str, Any]]) -> None:
    for row in rows[::4]:
        row["image"] = None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (new_category, r"split train: category: .*values missing from the schema: spaceship \(~\d+%\)"),
        (other_shares, r"category: The Linfty distance between current and previous is 0\.1\d* .* above the threshold"),
        (vanished_column, r"category: .*values missing from the schema"),
        (missing_images, r"modalities: The Linfty distance between current and previous .*is: (image and )?text"),
    ],
)
def test_an_anomaly_stops_the_run(
    rows: list[dict[str, Any]], passed: tuple[str, Any], tmp_path: Path, change: Change, told: str
) -> None:
    changed = [dict(row) for row in rows]
    change(changed)
    with pytest.raises(AnomalyError, match=told) as raised:
        check(tmp_path, statistics(tmp_path, changed), *passed)
    assert str(raised.value).startswith(
        "items: the data are not what the schema expects, or not like those of the last"
    )
    assert "--set data.stop_on_anomalies=false" in str(raised.value)


def test_more_of_the_same_passes(rows: list[dict[str, Any]], passed: tuple[str, Any], tmp_path: Path) -> None:
    more = [{**row, "item_id": f"j{place}"} for place, row in enumerate(rows * 2)]
    check(tmp_path, statistics(tmp_path, more), *passed)


def test_data_are_compared_with_those_of_the_last_release(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    before, changed = statistics(tmp_path / "a", rows), [dict(row) for row in rows]
    kept = schema_of(before)
    check(tmp_path, before, kept)
    missing_images(changed)
    after = statistics(tmp_path / "b", changed)
    with pytest.raises(AnomalyError):
        check(tmp_path, after, kept, before)
    check(tmp_path, after, kept, before, stop=0)
    check(tmp_path, after, kept, after)
    with pytest.raises(AnomalyError, match="modalities"):
        check(tmp_path, before, kept, after)


def test_training_is_held_against_the_newest_rows(tmp_path: Path) -> None:
    found = standard_artifacts.ExampleStatistics()
    found.uri, found.split_names = str(tmp_path / "statistics"), '["train", "valid", "test"]'
    for split, rate in (("train", 2), ("valid", 2), ("test", 9)):
        frame = pd.DataFrame({"clicked": [int(n % 10 < rate) for n in range(1_000)]})
        folder = tmp_path / f"statistics/Split-{split}"
        folder.mkdir(parents=True)
        (folder / "FeatureStats.pb").write_bytes(tfdv.generate_statistics_from_dataframe(frame).SerializeToString())
    with pytest.raises(AnomalyError, match=r"examples, split train: clicked: .*Jensen-Shannon.*training and serving"):
        check(tmp_path, found, schema_of(found), table="examples")
