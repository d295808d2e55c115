"""The newest figures of a local run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.report_gen.figures import is_blessed, read_evaluation
from tfx_pipeline.runners.lineage import open_store


def newest_metrics(root: Path) -> dict[str, Any]:
    """`auc`, `gauc`, `logloss`, `calibration`, `rows`, `slices` and `blessed` of the newest evaluation under `root`.

    Raises:
        FileNotFoundError: no evaluation was made there yet.
    """
    from ml_metadata.proto import metadata_store_pb2 as pb

    store = open_store(str(root / "metadata.sqlite"))
    contexts = [context for context in store.get_contexts_by_type("node") if context.name.endswith(".Evaluator")]
    executions = [e for context in contexts for e in store.get_executions_by_context(context.id)]
    done = [e.id for e in executions if e.last_known_state == pb.Execution.COMPLETE]
    if not done:
        raise FileNotFoundError(
            f"{root} holds no evaluation yet; start with `mim run`, or look into {root / 'run.log'}"
        )
    events = [e for e in store.get_events_by_execution_ids([max(done)]) if e.type == pb.Event.OUTPUT]
    outputs = {
        event.path.steps[0].key: artifact.uri
        for event in events
        for artifact in store.get_artifacts_by_id([event.artifact_id])
    }
    found = read_evaluation(outputs["evaluation"])
    order = ("auc", "gauc", "logloss", "calibration", "rows", "slices")
    return {**{name: found[name] for name in order}, "blessed": is_blessed(outputs["blessing"])}
