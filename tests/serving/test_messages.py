"""The client's own declarations are what tensorflow-serving-api and TensorFlow declare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)
from tensorflow_serving.config import (
    file_system_storage_path_source_pb2,
    log_collector_config_pb2,
    logging_config_pb2,
    model_server_config_pb2,
)

from serving import messages

PROJECT = Path(__file__).parents[2]
SOURCES = (
    tensor_pb2.TensorProto,
    tensor_shape_pb2.TensorShapeProto,
    tensor_shape_pb2.TensorShapeProto.Dim,
    meta_graph_pb2.TensorInfo,
    meta_graph_pb2.SignatureDef,
    get_model_metadata_pb2.SignatureDefMap,
    get_model_metadata_pb2.GetModelMetadataRequest,
    get_model_metadata_pb2.GetModelMetadataResponse,
    get_model_status_pb2.GetModelStatusRequest,
    get_model_status_pb2.GetModelStatusResponse,
    get_model_status_pb2.ModelVersionStatus,
    model_management_pb2.ReloadConfigRequest,
    model_management_pb2.ReloadConfigResponse,
    model_pb2.ModelSpec,
    predict_pb2.PredictRequest,
    predict_pb2.PredictResponse,
    model_server_config_pb2.ModelConfig,
    model_server_config_pb2.ModelConfigList,
    model_server_config_pb2.ModelServerConfig,
    log_collector_config_pb2.LogCollectorConfig,
    logging_config_pb2.LoggingConfig,
    logging_config_pb2.SamplingConfig,
    file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy,
)
# The same on the wire: enums travel as int32.
SAME = {14: 5}


def is_list(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


@pytest.mark.parametrize("theirs", SOURCES, ids=lambda theirs: theirs.DESCRIPTOR.name)
def test_fields_are_theirs(theirs: Any) -> None:
    ours = messages._classes[theirs.DESCRIPTOR.name].DESCRIPTOR
    known = theirs.DESCRIPTOR.fields_by_name
    assert ours.fields
    for field in ours.fields:
        there = known[field.name]
        assert (field.number, SAME.get(field.type, field.type), is_list(field)) == (
            there.number,
            SAME.get(there.type, there.type),
            is_list(there),
        ), field.full_name


def test_a_request_reads_the_same_on_both_sides() -> None:
    ours = messages.PredictRequest()
    ours.model_spec.name, ours.model_spec.version.value = "m", 3
    ours.inputs["x"].float_val.extend([1.0, 2.0])
    ours.output_filter.append("y")
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value, list(theirs.output_filter)) == ("m", 3, ["y"])
    assert list(theirs.inputs["x"].float_val) == [1.0, 2.0]
    assert messages.PredictRequest.FromString(theirs.SerializeToString()) == ours


def test_the_client_needs_grpc_protobuf_and_numpy_alone() -> None:
    code = """
import sys

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        top = name.split('.')[0]
        if top in ('tensorflow', 'tensorflow_serving', 'keras', 'apache_beam', 'lmdb', 'redis', 'pyarrow', 'click'):
            raise ImportError(f'{name} is not on the machine of a client')

sys.meta_path.insert(0, OnlyThese())
import serving.client, serving.async_client, serving.rollout
outside = {name.split('.')[0] for name, module in list(sys.modules.items())
           if 'site-packages' in (getattr(module, '__file__', None) or '')}
print(sorted(outside))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert ended.returncode == 0, ended.stderr
    outside = {name for name in eval(ended.stdout) if not name.startswith(("_", "grpc"))}
    assert outside <= {"google", "numpy", "typing_extensions"}
