"""`ReleaseGen`: encoder, snapshot, index, ranker and verdict → one release."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import ItemEmbeddings, Release
from components.baseline_check.component import BaselineComparison
from components.release_gen.executor import Executor


class ReleaseGenSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ReleaseGen`."""

    PARAMETERS = {"code_fingerprint": ExecutionParameter(type=str)}
    INPUTS = {
        "encoder": ChannelParameter(type=standard_artifacts.Model),
        "embeddings": ChannelParameter(type=ItemEmbeddings),
        "index": ChannelParameter(type=standard_artifacts.Model),
        "ranker": ChannelParameter(type=standard_artifacts.Model),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
        "comparison": ChannelParameter(type=BaselineComparison),
        "items_statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "examples_statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
    }
    OUTPUTS = {"release": ChannelParameter(type=Release)}


class ReleaseGen(base_component.BaseComponent):
    """Binds what belongs together and checks that it does: snapshot and ranker are of this encoder.

    Args:
        encoder, embeddings, index, ranker: The parts.
        blessing: Whether the ranker may be released.
        comparison: From BaselineCheck, for the verdict.
        items_statistics, examples_statistics: Of the data; the next run's data are compared with them.
    """

    SPEC_CLASS = ReleaseGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        encoder: types.BaseChannel,
        embeddings: types.BaseChannel,
        index: types.BaseChannel,
        ranker: types.BaseChannel,
        blessing: types.BaseChannel,
        comparison: types.BaseChannel,
        items_statistics: types.BaseChannel,
        examples_statistics: types.BaseChannel,
        code_fingerprint: str,
    ) -> None:
        spec = ReleaseGenSpec(
            encoder=encoder,
            embeddings=embeddings,
            index=index,
            ranker=ranker,
            blessing=blessing,
            comparison=comparison,
            items_statistics=items_statistics,
            examples_statistics=examples_statistics,
            code_fingerprint=code_fingerprint,
            release=types.Channel(type=Release),
        )
        super().__init__(spec=spec)
