"""What the parts of the graph share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfx import v1 as tfx
from tfx.types import standard_artifacts

from components.artifacts import ItemEmbeddings
from components.contract.schema import Schema
from components.example_check.component import ExampleCheck
from components.standard import SchemaGen, StatisticsGen
from mim_keras.config import to_mapping
from tfx_pipeline.fingerprints import code_fingerprint
from tfx_pipeline.pipeline.paths import RunPaths
from tfx_pipeline.settings import Settings

_TYPES = {
    "encoder": standard_artifacts.Model,
    "ranker": standard_artifacts.Model,
    "embeddings": ItemEmbeddings,
    "items_statistics": standard_artifacts.ExampleStatistics,
    "examples_statistics": standard_artifacts.ExampleStatistics,
}


@dataclass(frozen=True)
class Run:
    """One run: its settings, paths and schema."""

    settings: Settings
    paths: RunPaths
    schema: Schema

    @property
    def described_schema(self) -> Schema:
        """The schema of the items that the stages and the statistics read."""
        return self.settings.data.with_learned_attributes(self.schema)

    @property
    def spans(self) -> dict[str, Any]:
        """Settings of the spans."""
        return to_mapping(self.settings.data.spans)

    def reader_parameters(self) -> dict[str, Any]:
        """Parameters of every component that reads tables."""
        return {
            "data": self.paths.data,
            "schema": self.schema.to_json(),
            "spans": self.spans,
            "rejected_folder": self.paths.rejected,
            "max_rejected_fraction": self.settings.data.max_rejected_fraction,
        }

    def released(self, part: str, name: str) -> Any | None:
        """An Importer of a part of the current release; None before the first release."""
        release = self.paths.released
        if release is None or part not in release.sources:
            return None
        properties = {"split_names": '["train"]'} if part.endswith("statistics") else {}
        importer = tfx.dsl.Importer(source_uri=release.sources[part], artifact_type=_TYPES[part], properties=properties)
        return importer.with_id(name)


def component_code(folder: str) -> str:
    """Fingerprint of the executor in a folder of `components`."""
    return code_fingerprint(f"components.{folder}.executor")


@dataclass(frozen=True)
class Checks:
    """TFDV over one kind of Examples: statistics, the schema inferred from them, and what stops a run."""

    statistics: Any
    schema: Any
    check: Any
    importers: list[Any]

    @property
    def nodes(self) -> list[Any]:
        """In order."""
        return [self.statistics, self.schema, *self.importers, self.check]


def check_nodes(run: Run, table: str, examples: Any, stats_options: Any = None) -> Checks:
    """Statistics, schema and `ExampleCheck` of `examples`."""
    options = {"stats_options": stats_options} if stats_options is not None else {}
    statistics = StatisticsGen(examples=examples, **options).with_id(f"StatisticsGen.{table}")
    schema = SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
    released = run.released(f"{table}_statistics", f"ReleasedStatistics.{table}")
    check = ExampleCheck(
        statistics=statistics.outputs["statistics"],
        schema=schema.with_id(f"SchemaGen.{table}").outputs["schema"],
        table=table,
        kept_schema=run.settings.data.kept_schema(table),
        stop=run.settings.data.stop_on_anomalies,
        code_fingerprint=component_code("example_check"),
        released_statistics=released.outputs["result"] if released else None,
    ).with_id(f"ExampleCheck.{table}")
    return Checks(statistics, schema, check, [released] if released else [])
