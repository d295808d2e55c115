"""Schemas that a person keeps: those that TFDV inferred in a run, with what is to be watched from now on."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.utils import io_utils
from upath import UPath

from components.storage import local_folder
from tfx_pipeline.preprocessing import LABEL
from tfx_pipeline.runners.lineage import newest, open_store

TABLES = ("items", "examples")
# Features of which no value's share means anything.
UNWATCHED = ("item_id", "user_id", "title", "text", "history_item_ids")
DRIFT, SKEW = 0.1, 0.25  # how far a value's share may move: from run to run, and from training to the newest rows
NEW_VALUES = 0.05  # share of rows that may have values which the schema does not list
LABEL_DRIFT = 0.05  # Jensen-Shannon divergence


def keep_schemas(root: str | Path | UPath, folder: Path) -> list[Path]:
    """Writes `items.pbtxt` and `examples.pbtxt` of the newest run below `root`; returns their paths.

    Raises:
        FileNotFoundError: nothing was run there yet, or not as far as the schemas.
    """
    store = open_store(root)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in TABLES:
        artifact = newest(store, f"SchemaGen.{table}", "schema")
        if artifact is None:
            raise FileNotFoundError(f"{root} holds no schema of {table} yet: `mim run` must get as far first")
        schema = watched(io_utils.SchemaReader().read(f"{local_folder(artifact.uri)}/schema.pbtxt"))
        path = folder / f"{table}.pbtxt"
        path.write_text(text_format.MessageToString(schema))
        written.append(path)
    return written


def watched(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """The schema with comparators for every categorical feature and the label, and room for few new values."""
    kept = schema_pb2.Schema()
    kept.CopyFrom(schema)
    for feature in kept.feature:
        if feature.type == schema_pb2.BYTES and feature.name not in UNWATCHED:
            feature.drift_comparator.infinity_norm.threshold = DRIFT
            feature.skew_comparator.infinity_norm.threshold = SKEW
            if feature.WhichOneof("domain_info"):
                feature.distribution_constraints.min_domain_mass = 1 - NEW_VALUES
        elif feature.name == LABEL:
            feature.drift_comparator.jensen_shannon_divergence.threshold = LABEL_DRIFT
            feature.skew_comparator.jensen_shannon_divergence.threshold = LABEL_DRIFT
    return kept
