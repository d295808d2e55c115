"""The release and the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from components.release_gen.component import ReleaseGen
from components.release_pusher.component import ReleasePusher
from components.report_gen.component import ReportGen
from mim_keras.config import to_mapping
from tfx_pipeline.pipeline.data import DataNodes
from tfx_pipeline.pipeline.encoder import EncoderNodes
from tfx_pipeline.pipeline.nodes import Run, component_code
from tfx_pipeline.pipeline.ranker import RankerNodes


@dataclass(frozen=True)
class ReleaseNodes:
    """What a run ends with."""

    release: Any
    pusher: Any
    report: Any

    @property
    def nodes(self) -> list[Any]:
        """In order."""
        return [self.release, self.pusher, self.report]


def release_nodes(run: Run, data: DataNodes, encoder: EncoderNodes, ranker: RankerNodes) -> ReleaseNodes:
    """Binds the parts to a release, publishes it if it was accepted, and reports."""
    checked = ranker.baseline_check.outputs
    release = ReleaseGen(
        encoder=encoder.encoder,
        embeddings=encoder.exporter.outputs["embeddings"],
        index=encoder.index.outputs["model"],
        ranker=ranker.trainer.outputs["model"],
        blessing=checked["blessing"],
        comparison=checked["comparison"],
        items_statistics=data.item_checks.statistics.outputs["statistics"],
        examples_statistics=data.example_checks.statistics.outputs["statistics"],
        code_fingerprint=component_code("release_gen"),
    )
    pusher = ReleasePusher(
        release=release.outputs["release"],
        root=run.paths.root,
        run_id=run.paths.run_id,
        code_fingerprint=component_code("release_pusher"),
    )
    report = ReportGen(
        evaluation=ranker.evaluator.outputs["evaluation"],
        blessing=checked["blessing"],
        comparison=checked["comparison"],
        ids_only_evaluation=ranker.ids_only[1].outputs["evaluation"] if ranker.ids_only else None,
        **encoder.model_runs(),
        ciubm_run=ranker.trainer.outputs["model_run"],
        items=data.catalogue.outputs["items"],
        impressions=data.impressions.outputs["impressions"],
        examples=data.histories.outputs["examples"],
        pairs=data.pairs.outputs["pairs"],
        embeddings=encoder.exporter.outputs["embeddings"],
        name=run.settings.name,
        data=run.paths.data,
        settings=json.dumps(to_mapping(run.settings), indent=2),
        code_fingerprint=component_code("report_gen"),
    )
    return ReleaseNodes(release, pusher, report)
