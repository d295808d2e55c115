"""Runs one component's executor on folders, without the rest of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.catalogue_gen.executor import Executor as CatalogueExecutor
from components.contract.schema import Schema
from components.engine import IN_PROCESS, beam_flags
from components.history_gen.executor import Executor as HistoryExecutor
from components.impression_gen.executor import Executor as ImpressionExecutor
from components.pair_gen.executor import Executor as PairExecutor

Flags = tuple[str, ...]


def artifact(folder: Any) -> Any:
    made = standard_artifacts.Examples()
    made.uri = str(folder)
    return made


def run_catalogue(data: Path, out: Any, args: Flags = IN_PROCESS, **properties: Any) -> Any:
    made = artifact(out / "items")
    defaults = {"data": str(data), "rejected_folder": str(out / "rejected"), "max_rejected_fraction": 1.0}
    defaults |= {"spans": "{}", "schema": Schema().to_json()}
    executor(CatalogueExecutor, args).Do({}, {"items": [made]}, defaults | properties)
    return made


def run_impressions(data: Path, out: Any, items: Any, args: Flags = IN_PROCESS, **properties: Any) -> Any:
    made = artifact(out / "impressions")
    defaults = {
        "data": str(data),
        "rejected_folder": str(out / "rejected"),
        "max_rejected_fraction": 1.0,
        "spans": "{}",
        "split": '{"by": "time", "fractions": [0.8, 0.1, 0.1], "new_items": 0}',
        "schema": Schema().to_json(),
    }
    executor(ImpressionExecutor, args).Do({"items": [items]}, {"impressions": [made]}, defaults | properties)
    return made


def run_histories(
    data: Path, out: Any, impressions: Any, args: Flags = IN_PROCESS, items: Any = None, **properties: Any
) -> Any:
    """The examples; the table of statistics is `out / "statistics_table"`."""
    made, statistics = artifact(out / "examples"), artifact(out / "statistics_table")
    defaults = {
        "data": str(data),
        "rejected_folder": str(out / "rejected"),
        "max_rejected_fraction": 1.0,
        "history_length": 5,
        "cold_max_clicks": 5,
        "new_items": 0,
        "statistics_spec": "",
        "spans": "{}",
        "schema": Schema().to_json(),
    }
    inputs = {"impressions": [impressions]} | ({"items": [items]} if items is not None else {})
    outputs = {"examples": [made], "statistics_table": [statistics]}
    executor(HistoryExecutor, args).Do(inputs, outputs, defaults | properties)
    return made


def run_pairs(data: Path, out: Any, items: Any, impressions: Any, args: Flags = IN_PROCESS, **properties: Any) -> Any:
    made = artifact(out / "pairs")
    defaults = {
        "data": str(data),
        "rejected_folder": str(out / "rejected"),
        "max_rejected_fraction": 1.0,
        "spans": "{}",
        "schema": Schema().to_json(),
        "source": "auto",
        "window_seconds": 10**7,
        "max_per_user": 50,
        "max_gap": 2,
        "query_length": 3,
        "hard": 2,
    }
    inputs = {"items": [items], "impressions": [impressions]}
    executor(PairExecutor, args).Do(inputs, {"pairs": [made]}, defaults | properties)
    return made


def executor(kind: Any, args: Flags = IN_PROCESS) -> Any:
    return kind(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam_flags(args)))


def read(made: Any, split: str) -> list[dict[str, Any]]:
    """All rows of a split, as plain values; features of one value as that value."""
    rows = []
    folder = artifact_utils.get_split_uri([made], split)
    for file in sorted(tf.io.gfile.glob(f"{folder}/*")):
        for record in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
            row = {}
            for name, feature in tf.train.Example.FromString(record).features.feature.items():
                values = list(getattr(feature, feature.WhichOneof("kind")).value) if feature.WhichOneof("kind") else []
                values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
                row[name] = values if name.startswith(("history_", "query_item", "hard_")) else values[0]
            rows.append(row)
    return rows
