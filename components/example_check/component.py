"""`ExampleCheck`: statistics and a schema → anomalies, which stop the run."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.example_check.executor import Executor


class ExampleCheck(Component, executor=Executor):
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

    statistics: InputArtifact[standard_artifacts.ExampleStatistics]
    schema: InputArtifact[standard_artifacts.Schema]
    released_statistics: InputArtifact[standard_artifacts.ExampleStatistics] = None
    table: Parameter[str]
    kept_schema: Parameter[str]
    stop: Parameter[bool]
    anomalies: OutputArtifact[standard_artifacts.ExampleAnomalies]
