"""`ReportGen`: everything a run produced → one self-contained HTML page."""

from __future__ import annotations

from tfx.types import artifact, standard_artifacts

from components.artifacts import ItemEmbeddings
from components.baseline_check.component import BaselineComparison
from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.report_gen.executor import Executor


class Report(artifact.Artifact):
    """A folder with `report.html` and `figures.json`."""

    TYPE_NAME = "mim.Report"


class ReportGen(Component, executor=Executor):
    """Draws the figures of a run: quality by segment, against ids alone and the oracle where one is known, what
    each stage learned, what the encoder finds alike, and where every row went.

    Args:
        data: The data folder; its `oracle.json`, if there is one, is held beside the ranker.
        settings: The run's settings as JSON text.
    """

    evaluation: InputArtifact[standard_artifacts.ModelEvaluation]
    blessing: InputArtifact[standard_artifacts.ModelBlessing]
    comparison: InputArtifact[BaselineComparison]
    ids_only_evaluation: InputArtifact[standard_artifacts.ModelEvaluation] = None
    pretrain_run: InputArtifact[standard_artifacts.ModelRun] = None
    csft_run: InputArtifact[standard_artifacts.ModelRun] = None
    ciubm_run: InputArtifact[standard_artifacts.ModelRun]
    items: InputArtifact[standard_artifacts.Examples]
    impressions: InputArtifact[standard_artifacts.Examples]
    examples: InputArtifact[standard_artifacts.Examples]
    pairs: InputArtifact[standard_artifacts.Examples]
    embeddings: InputArtifact[ItemEmbeddings]
    name: Parameter[str]
    data: Parameter[str]
    settings: Parameter[str]
    report: OutputArtifact[Report]
