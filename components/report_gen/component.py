"""`ReportGen`: everything a run produced → one self-contained HTML page."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import artifact, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import ItemEmbeddings
from components.baseline_check.component import BaselineComparison
from components.report_gen.executor import Executor


class Report(artifact.Artifact):
    """A folder with `report.html` and `figures.json`."""

    TYPE_NAME = "mim.Report"


class ReportGenSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ReportGen`."""

    PARAMETERS = {
        "name": ExecutionParameter(type=str),
        "data": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "comparison": ChannelParameter(type=BaselineComparison),
        "ids_only_evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
        "pretrain_run": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
        "csft_run": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
        "ciubm_run": ChannelParameter(type=standard_artifacts.ModelRun),
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "impressions": ChannelParameter(type=standard_artifacts.Examples),
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "pairs": ChannelParameter(type=standard_artifacts.Examples),
        "embeddings": ChannelParameter(type=ItemEmbeddings),
    }
    OUTPUTS = {"report": ChannelParameter(type=Report)}


class ReportGen(base_component.BaseComponent):
    """Draws the figures of a run: quality by segment, against ids alone and the oracle where one is known, what
    each stage learned, what the encoder finds alike, and where every row went.

    Args:
        data: The data folder; its `oracle.json`, if there is one, is held beside the ranker.
        settings: The run's settings as JSON text.
    """

    SPEC_CLASS = ReportGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        evaluation: types.BaseChannel,
        blessing: types.BaseChannel,
        comparison: types.BaseChannel,
        ids_only_evaluation: types.BaseChannel | None,
        pretrain_run: types.BaseChannel | None,
        csft_run: types.BaseChannel | None,
        ciubm_run: types.BaseChannel,
        items: types.BaseChannel,
        impressions: types.BaseChannel,
        examples: types.BaseChannel,
        pairs: types.BaseChannel,
        embeddings: types.BaseChannel,
        name: str,
        data: str,
        settings: str,
        code_fingerprint: str,
    ) -> None:
        spec = ReportGenSpec(
            evaluation=evaluation,
            blessing=blessing,
            comparison=comparison,
            ids_only_evaluation=ids_only_evaluation,
            pretrain_run=pretrain_run,
            csft_run=csft_run,
            ciubm_run=ciubm_run,
            items=items,
            impressions=impressions,
            examples=examples,
            pairs=pairs,
            embeddings=embeddings,
            name=name,
            data=data,
            settings=settings,
            code_fingerprint=code_fingerprint,
            report=types.Channel(type=Report),
        )
        super().__init__(spec=spec)
