"""`ExampleCheck`: statistics and a schema → anomalies, which stop the run."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.example_check.executor import Executor


class ExampleCheckSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ExampleCheck`."""

    PARAMETERS = {
        "table": ExecutionParameter(type=str),
        "kept_schema": ExecutionParameter(type=str),
        "stop": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "released_statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }
    OUTPUTS = {"anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies)}


class ExampleCheck(base_component.BaseComponent):
    """What TFX's ExampleValidator does, and what it leaves out: drift, skew, and a run that stops.

    Each split is held against the schema; the training split also against that of the last release (the
    schema's `drift_comparator`s) and, where there is one, against the split `test` (`skew_comparator`s): the newest
    rows are the nearest to what will be asked of the model.

    Args:
        statistics: Of the examples.
        schema: Inferred from them; it is used where `kept_schema` is empty, and finds nothing new then.
        table: What the examples are, for messages.
        kept_schema: A `tensorflow.metadata.v0.Schema` in text form that a person keeps, or empty.
        stop: Whether an anomaly stops the run; where not, it is logged.
        released_statistics: Of the last release's data; None before the first release.
    """

    SPEC_CLASS = ExampleCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        table: str,
        kept_schema: str,
        stop: bool,
        code_fingerprint: str,
        released_statistics: types.BaseChannel | None = None,
    ) -> None:
        spec = ExampleCheckSpec(
            statistics=statistics,
            schema=schema,
            table=table,
            kept_schema=kept_schema,
            released_statistics=released_statistics,
            stop=int(stop),
            code_fingerprint=code_fingerprint,
            anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
        )
        super().__init__(spec=spec)
