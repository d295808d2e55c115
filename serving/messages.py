"""The messages and calls of TensorFlow Serving's API, needing protobuf and gRPC alone.

The Python files of tensorflow-serving-api import `tensorflow.core.*_pb2`, and with it the whole of TensorFlow:
seconds of start, hundreds of megabytes, and gigabytes on disk, for a client that only sends tensors.  What travels
depends on field numbers and types alone, so the part of the API that a client needs is declared here, in a pool of
its own that meets no other definition.  A test holds each field against tensorflow-serving-api's own descriptors.

Source: tensorflow_serving/apis/*.proto, tensorflow_serving/config/*.proto, tensorflow/core/framework/tensor.proto,
tensorflow/core/protobuf/meta_graph.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Message → "field:number:type"; a type ending in * is repeated, map<T> has text for keys.
_SCHEMA: dict[str, str] = {
    "Dim": "size:1:int64 name:2:string",
    "TensorShapeProto": "dim:2:Dim* unknown_rank:3:bool",
    "TensorProto": (
        "dtype:1:int32 tensor_shape:2:TensorShapeProto version_number:3:int32 tensor_content:4:bytes "
        "half_val:13:int32* float_val:5:float* double_val:6:double* int_val:7:int32* string_val:8:bytes* "
        "scomplex_val:9:float* int64_val:10:int64* bool_val:11:bool* dcomplex_val:12:double* "
        "uint32_val:16:uint32* uint64_val:17:uint64*"
    ),
    "TensorInfo": "name:1:string dtype:2:int32 tensor_shape:3:TensorShapeProto",
    "SignatureDef": "inputs:1:map<TensorInfo> outputs:2:map<TensorInfo> method_name:3:string "
    "defaults:4:map<TensorProto>",
    "SignatureDefMap": "signature_def:1:map<SignatureDef>",
    "Any": "type_url:1:string value:2:bytes",
    "Int64Value": "value:1:int64",
    "StringValue": "value:1:string",
    "BoolValue": "value:1:bool",
    "StatusProto": "error_code:1:int32 error_message:2:string",
    "ModelSpec": "name:1:string version:2:Int64Value version_label:4:string signature_name:3:string",
    "PredictRequest": "model_spec:1:ModelSpec inputs:2:map<TensorProto> output_filter:3:string*",
    "PredictResponse": "outputs:1:map<TensorProto> model_spec:2:ModelSpec",
    "GetModelMetadataRequest": "model_spec:1:ModelSpec metadata_field:2:string*",
    "GetModelMetadataResponse": "model_spec:1:ModelSpec metadata:2:map<Any>",
    "GetModelStatusRequest": "model_spec:1:ModelSpec",
    "ModelVersionStatus": "version:1:int64 state:2:int32 status:3:StatusProto",
    "GetModelStatusResponse": "model_version_status:1:ModelVersionStatus*",
    "Latest": "num_versions:1:uint32",
    "All": "",
    "Specific": "versions:1:int64*",
    "ServableVersionPolicy": "latest:100:Latest all:101:All specific:102:Specific",
    "LogCollectorConfig": "type:1:string filename_prefix:2:string",
    "SamplingConfig": "sampling_rate:1:double attributes:2:int32",
    "LoggingConfig": "log_collector_config:1:LogCollectorConfig sampling_config:2:SamplingConfig "
    "custom_logging_config:3:Any",
    "ModelConfig": (
        "name:1:string base_path:2:string model_type:3:ModelType model_platform:4:string "
        "logging_config:6:LoggingConfig model_version_policy:7:ServableVersionPolicy version_labels:8:map<int64>"
    ),
    "ModelConfigList": "config:1:ModelConfig*",
    "ModelServerConfig": "model_config_list:1:ModelConfigList",
    "ReloadConfigRequest": "config:1:ModelServerConfig",
    "ReloadConfigResponse": "status:1:StatusProto",
    # What only tensorflow_model_server's flags name: files in protobuf's text form.
    "BatchingParameters": (
        "max_batch_size:1:Int64Value batch_timeout_micros:2:Int64Value max_enqueued_batches:3:Int64Value "
        "num_batch_threads:4:Int64Value thread_pool_name:5:StringValue enable_large_batch_splitting:8:BoolValue "
        "max_execution_batch_size:9:Int64Value allowed_batch_sizes:6:int64* pad_variable_length_inputs:7:bool"
    ),
    "PrometheusConfig": "enable:1:bool path:2:string",
    "MonitoringConfig": "prometheus_config:1:PrometheusConfig",
    "SSLConfig": "server_key:1:string server_cert:2:string custom_ca:3:string client_verify:4:bool",
}
_ENUMS = {"ModelType": ("MODEL_TYPE_UNSPECIFIED", "TENSORFLOW", "OTHER")}  # those that text forms name
_PACKAGE = "mim.wire"
_Field = descriptor_pb2.FieldDescriptorProto


def _declare(field: Any, name: str, number: int, kind: str) -> None:
    repeated = kind.endswith("*")
    kind = kind.removesuffix("*")
    field.name, field.number = name, number
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if kind in _SCHEMA:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    elif kind in _ENUMS:
        field.type, field.type_name = _Field.TYPE_ENUM, f".{_PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="mim_wire.proto", package=_PACKAGE, syntax="proto3")
    for enum_name, values in _ENUMS.items():
        file.enum_type.add(name=enum_name, value=[{"name": name, "number": i} for i, name in enumerate(values)])
    for message_name, fields in _SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for declared in fields.split():
            name, number, kind = declared.split(":")
            if not kind.startswith("map<"):
                _declare(message.field.add(), name, int(number), kind)
                continue
            entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
            entry = message.nested_type.add(name=entry_name)
            entry.options.map_entry = True
            _declare(entry.field.add(), "key", 1, "string")
            _declare(entry.field.add(), "value", 2, kind[4:-1])
            field = message.field.add(name=name, number=int(number), label=_Field.LABEL_REPEATED)
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{message_name}.{entry_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _SCHEMA}


_classes = _build()
TensorProto = _classes["TensorProto"]
SignatureDefMap = _classes["SignatureDefMap"]
ModelSpec = _classes["ModelSpec"]
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
GetModelMetadataRequest = _classes["GetModelMetadataRequest"]
GetModelMetadataResponse = _classes["GetModelMetadataResponse"]
GetModelStatusRequest = _classes["GetModelStatusRequest"]
GetModelStatusResponse = _classes["GetModelStatusResponse"]
ModelConfig = _classes["ModelConfig"]
ModelServerConfig = _classes["ModelServerConfig"]
ReloadConfigRequest = _classes["ReloadConfigRequest"]
ReloadConfigResponse = _classes["ReloadConfigResponse"]
BatchingParameters = _classes["BatchingParameters"]
MonitoringConfig = _classes["MonitoringConfig"]
SSLConfig = _classes["SSLConfig"]

# tensorflow.DataType
DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_INT16, DT_INT8, DT_STRING, DT_INT64, DT_BOOL = 1, 2, 3, 4, 5, 6, 7, 9, 10
DT_COMPLEX64, DT_BFLOAT16, DT_UINT16, DT_COMPLEX128, DT_HALF, DT_UINT32, DT_UINT64 = 8, 14, 17, 18, 19, 22, 23
# tensorflow.serving.ModelVersionStatus.State
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50
STATE_NAMES = {START: "START", LOADING: "LOADING", AVAILABLE: "AVAILABLE", UNLOADING: "UNLOADING", END: "END"}

PREDICTION_SERVICE, MODEL_SERVICE = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
_METHODS = {
    "Predict": (PREDICTION_SERVICE, PredictResponse),
    "GetModelMetadata": (PREDICTION_SERVICE, GetModelMetadataResponse),
    "GetModelStatus": (MODEL_SERVICE, GetModelStatusResponse),
    "HandleReloadConfigRequest": (MODEL_SERVICE, ReloadConfigResponse),
}


def calls(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, Callable[..., Any]]:
    """Method name → what calls it over `channel`, blocking or asyncio as the channel is."""
    return {
        name: channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        for name, (service, answer) in _METHODS.items()
    }
