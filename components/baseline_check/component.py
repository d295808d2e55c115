"""`BaselineCheck`: the ranker against simple baselines on the same rows; it is released only above them."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import artifact, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import ItemEmbeddings
from components.baseline_check.executor import Executor


class BaselineComparison(artifact.Artifact):
    """A folder with `comparison.json`."""

    TYPE_NAME = "mim.BaselineComparison"


class BaselineCheckSpec(ComponentSpec):
    """Parameters, inputs and outputs of `BaselineCheck`."""

    PARAMETERS = {
        "features": ExecutionParameter(type=str),
        "must_beat": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "embeddings": ChannelParameter(type=ItemEmbeddings),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "evaluated": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {
        "comparison": ChannelParameter(type=BaselineComparison),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class BaselineCheck(base_component.BaseComponent):
    """Fits click rates and gradient boosting on the ranking examples and compares the ranker with them on the test
    rows.  The ranker is blessed if the Evaluator blessed it and, with `must_beat`, if its AUC is above that of the
    best baseline by a 95 % interval over users.

    Args:
        examples: From HistoryGen.
        items: From CatalogueGen.
        embeddings: The snapshot.
        model: The ranker.
        evaluated: The Evaluator's blessing.
        features: JSON: `attributes` and `context`, kinds by name, and `entities` of the statistics.
        must_beat: Whether a ranker that is not above the baselines is held back.
    """

    SPEC_CLASS = BaselineCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        items: types.BaseChannel,
        embeddings: types.BaseChannel,
        model: types.BaseChannel,
        evaluated: types.BaseChannel,
        features: str,
        must_beat: bool,
        code_fingerprint: str,
    ) -> None:
        spec = BaselineCheckSpec(
            examples=examples,
            items=items,
            embeddings=embeddings,
            model=model,
            evaluated=evaluated,
            features=features,
            must_beat=int(must_beat),
            code_fingerprint=code_fingerprint,
            comparison=types.Channel(type=BaselineComparison),
            blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        )
        super().__init__(spec=spec)
