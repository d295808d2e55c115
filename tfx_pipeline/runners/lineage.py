"""Questions to the ML Metadata store of local runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upath import UPath

from tfx_pipeline.runners.root import Root


def open_store(root: str | Path | UPath) -> Any:
    """The store of the runs below a root.

    Raises:
        FileNotFoundError: nothing was run there yet.
    """
    from ml_metadata.metadata_store import metadata_store
    from tfx.orchestration import metadata

    return metadata_store.MetadataStore(metadata.sqlite_metadata_connection_config(Root(root).metadata))


def newest(store: Any, node: str, output: str) -> Any | None:
    """What the newest finished execution of a node has as its `output`, or None.

    A cached execution counts: its output is the one that it reused, and not what another execution made since.
    """
    from ml_metadata.proto import metadata_store_pb2 as pb

    finished = (pb.Execution.COMPLETE, pb.Execution.CACHED)
    contexts = [c for c in store.get_contexts_by_type("node") if c.name.endswith(f".{node}")]
    found = [e for c in contexts for e in store.get_executions_by_context(c.id) if e.last_known_state in finished]
    if not found:
        return None
    last = max(found, key=lambda execution: execution.id)
    outputs = (pb.Event.OUTPUT, pb.Event.DECLARED_OUTPUT)
    events = [e for e in store.get_events_by_execution_ids([last.id]) if e.type in outputs]
    ids = [event.artifact_id for event in events if event.path.steps[0].key == output]
    artifacts = [a for a in store.get_artifacts_by_id(ids) if a.state == pb.Artifact.LIVE]
    return max(artifacts, key=lambda artifact: artifact.id, default=None)


def executions(root: str | Path | UPath) -> list[tuple[str, str]]:
    """(node id, state) of every execution of every run, in order; states as `COMPLETE`, `CACHED`, `FAILED`."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store = open_store(root)
    rows = []
    for execution in sorted(store.get_executions(), key=lambda e: e.id):
        contexts = store.get_contexts_by_execution(execution.id)
        node = next((c.name.split(".", 1)[1] for c in contexts if c.type == "node"), "?")
        rows.append((node, pb.Execution.State.Name(execution.last_known_state)))
    return rows
