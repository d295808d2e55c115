"""What `ExampleCheck` does."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from absl import logging
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.storage import on_local_disk

TRAIN, NEWEST = "train", "test"
STATISTICS, ANOMALIES = "FeatureStats.pb", "SchemaDiff.pb"


class AnomalyError(ValueError):
    """The examples are not what they should be.  The message names each feature, what was found, and what to do."""


class Executor(base_executor.BaseExecutor):
    """Holds the statistics against the schema, those of the last release and the newest rows."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
        anomalies.split_names = statistics.split_names
        splits = artifact_utils.decode_split_names(statistics.split_names)
        found = {name: _load(f"{artifact_utils.get_split_uri([statistics], name)}/{STATISTICS}") for name in splits}
        schema = self._schema(exec_properties["kept_schema"], artifact_utils.get_single_uri(input_dict["schema"]))
        table = exec_properties["table"]

        problems: list[str] = []
        released = input_dict.get("released_statistics")
        previous = _load(f"{artifact_utils.get_split_uri(released, TRAIN)}/{STATISTICS}") if released else None
        for name in splits:
            # A small split differs from another by chance: shares are compared for the training split alone.
            compared = name == TRAIN
            differences = tfdv.validate_statistics(
                found[name],
                schema,
                previous_statistics=previous if compared else None,
                serving_statistics=found.get(NEWEST) if compared else None,
            )
            folder = artifact_utils.get_split_uri([anomalies], name)
            tf.io.gfile.makedirs(folder)
            io_utils.write_bytes_file(f"{folder}/{ANOMALIES}", differences.SerializeToString())
            problems += [f"{table}, split {name}: {line}" for line in sentences(differences)]
        if problems and exec_properties["stop"]:
            raise AnomalyError(
                f"{table}: the data are not what the schema expects, or not like those of the last release. "
                + "; ".join(problems)
                + ". Mend the data; or, where they are right, change the schema that data.schema names, or accept them "
                "once by --set data.stop_on_anomalies=false"
            )
        for line in problems:
            logging.info("table %s (not stopped: data.stop_on_anomalies is off)", line)

    def _schema(self, kept: str, inferred: str) -> schema_pb2.Schema:
        if kept:
            return text_format.Parse(kept, schema_pb2.Schema())
        return io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(inferred))


def _load(path: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    return tfdv.load_stats_binary(path)


def sentences(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """Each error in words: the feature, and what is wrong with it."""
    lines = []
    for name, info in sorted(anomalies.anomaly_info.items()):
        if info.severity == anomalies_pb2.AnomalyInfo.ERROR:
            lines.append(f"{name}: " + " ".join(reason.description.rstrip(". ") + "." for reason in info.reason))
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(anomalies.dataset_anomaly_info.description)
    return [line.rstrip(".") for line in lines]
