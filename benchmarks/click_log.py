"""A generated click log of any size, long-tailed in users and items; and one component at a time on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.components.base import base_beam_executor
from tfx.types import standard_artifacts

from components.engine import IN_PROCESS, beam_flags

ITEMS, DAYS, START = 4_000, 90, 1_700_000_000
FILE_ROWS = 250_000


def write_click_log(folder: Path, impressions: int, hottest: int = 0, seed: int = 0) -> None:
    """Writes `items` and `impressions` as Parquet.

    Args:
        folder: Empty or missing.
        impressions: Rows; a user has 100 on average, a third of them clicked.
        hottest: Of them, rows of one single user.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    (folder / "items").mkdir(parents=True)
    (folder / "impressions").mkdir()
    numbers = np.arange(ITEMS)
    items = {
        "item_id": [f"i{n:06d}" for n in numbers],
        "title": [f"item {n}" for n in numbers],
        "category": [f"c{n % 18}" for n in numbers],
    }
    pq.write_table(pa.table(items), folder / "items" / "part-0.parquet")
    users = max(1, impressions // 100)
    item_ids = np.array(items["item_id"])
    for place, first in enumerate(range(0, impressions, FILE_ROWS)):
        rows = min(FILE_ROWS, impressions - first)
        user = (users * rng.random(rows) ** 2).astype(np.int64)
        user[: max(0, min(rows, hottest - first))] = users  # of an id that no other row has
        item = (ITEMS * rng.random(rows) ** 3).astype(np.int64)
        columns = {
            "user_id": np.char.add("u", user.astype(str)),
            "item_id": item_ids[item],
            "timestamp": START + (rng.random(rows) * DAYS * 86_400).astype(np.int64),
            "clicked": (rng.random(rows) < 1 / 3).astype(np.int64),
        }
        pq.write_table(pa.table(columns), folder / "impressions" / f"part-{place}.parquet")


def run_component(
    kind: Any,
    inputs: dict[str, Any],
    outputs: dict[str, Path],
    properties: dict[str, Any],
    flags: tuple[str, ...] = IN_PROCESS,
) -> Any:
    """Runs an executor; (the first of its outputs, seconds)."""
    made = {name: standard_artifacts.Examples() for name in outputs}
    for name, folder in outputs.items():
        made[name].uri = str(folder)
    executor = kind(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam_flags(flags)))
    started = time.monotonic()
    lists = [{name: [artifact] for name, artifact in artifacts.items()} for artifacts in (inputs, made)]
    executor.Do(*lists, properties)
    return next(iter(made.values())), time.monotonic() - started


def impressions_of(data: Path, out: Path) -> tuple[Any, Any, dict[str, Any], float]:
    """CatalogueGen and ImpressionGen on a folder; (items, impressions, properties all share, the latter's seconds)."""
    from components.catalogue_gen.executor import Executor as Catalogue
    from components.contract.schema import Schema
    from components.impression_gen.executor import Executor as Impressions

    common = {
        "data": str(data),
        "rejected_folder": str(out / "rejected"),
        "max_rejected_fraction": 0.01,
        "schema": Schema().to_json(),
        "spans": "{}",
    }
    items, _ = run_component(Catalogue, {}, {"items": out / "items"}, common)
    split = '{"by": "time", "fractions": [0.8, 0.1, 0.1], "new_items": 0}'
    properties = {**common, "split": split}
    outputs = {"impressions": out / "impressions"}
    impressions, seconds = run_component(Impressions, {"items": items}, outputs, properties)
    return items, impressions, common, seconds
