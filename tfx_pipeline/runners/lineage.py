"""Questions to the ML Metadata store of a local run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_store(metadata_file: str) -> Any:
    """The store of a local run.

    Raises:
        FileNotFoundError: nothing was run there yet.
    """
    if not Path(metadata_file).is_file():
        raise FileNotFoundError(f"{metadata_file} does not exist: nothing was run there yet; start with `mim run`")
    from ml_metadata.metadata_store import metadata_store
    from tfx.orchestration import metadata

    return metadata_store.MetadataStore(metadata.sqlite_metadata_connection_config(metadata_file))


def newest(store: Any, type_name: str, producer: str, output: str) -> Any | None:
    """The newest live artifact of a type that the node `producer` made as its `output`, or None."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    found = [a for a in store.get_artifacts_by_type(type_name) if a.state == pb.Artifact.LIVE]
    found = [a for a in found if f"/{producer}/{output}/" in a.uri]
    return max(found, key=lambda a: a.id, default=None)


def last_models(metadata_file: str) -> tuple[str, str]:
    """Folders of the newest encoder and of the newest ranker that was released; empty where there is none."""
    if not Path(metadata_file).is_file():
        return "", ""
    store = open_store(metadata_file)
    encoder = newest(store, "Model", "Trainer.csft", "model")
    released = [
        blessing
        for blessing in store.get_artifacts_by_type("ModelBlessing")
        if "/BaselineCheck/" in blessing.uri and blessing.custom_properties["blessed"].int_value == 1
    ]
    ranker = max(released, key=lambda blessing: blessing.id, default=None)
    return (
        "" if encoder is None else encoder.uri,
        "" if ranker is None else ranker.custom_properties["current_model"].string_value,
    )


def executions(metadata_file: str) -> list[tuple[str, str]]:
    """(node id, state) of every execution of every run, in order; states as `COMPLETE`, `CACHED`, `FAILED`."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store = open_store(metadata_file)
    rows = []
    for execution in sorted(store.get_executions(), key=lambda e: e.id):
        contexts = store.get_contexts_by_execution(execution.id)
        node = next((c.name.split(".", 1)[1] for c in contexts if c.type == "node"), "?")
        rows.append((node, pb.Execution.State.Name(execution.last_known_state)))
    return rows
