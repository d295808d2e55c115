"""What Beam counts while a component works: shown by its runners, and kept in the log, the artifact and the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import apache_beam as beam
from absl import logging
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.metrics.metric import Metrics as Kinds
from apache_beam.runners.runner import PipelineResult

if TYPE_CHECKING:  # it would import TensorFlow, and the data contract needs none
    from tfx.types import Artifact

NAMESPACE, PROPERTY = "mim", "metrics"


def counter(name: str) -> Kinds.DelegatingCounter:
    """A counter of Beam's; may be made anywhere, and counts only within a pipeline."""
    return Metrics.counter(NAMESPACE, name)


def finish(pipeline: beam.Pipeline, component: str, artifact: Artifact) -> dict[str, int]:
    """Runs the pipeline to its end; what it counted goes to the log and into the artifact's property `metrics`.

    Counters are of attempts: where a worker failed and its work was done again, some count twice.  The
    account of a table's rows (`components.contract.counts`) does not.
    """
    result = pipeline.run()
    result.wait_until_finish()
    counted = counters(result)
    artifact.set_string_custom_property(PROPERTY, json.dumps(counted))
    logging.info("beam %s: %s", component, ", ".join(f"{count:,} {name}" for name, count in counted.items()))
    return counted


def counters(result: PipelineResult) -> dict[str, int]:
    """All counters of ours, by name, each over all steps."""
    found: dict[str, int] = {}
    for one in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        name = one.key.metric.name
        found[name] = found.get(name, 0) + int(one.committed or one.attempted or 0)
    return dict(sorted(found.items()))
