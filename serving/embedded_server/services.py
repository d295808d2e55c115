"""TensorFlow Serving's two gRPC services over a `ModelStore`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from serving.embedded_server.errors import ServingFault, invalid
from serving.embedded_server.loaded_model import DEFAULT_SIGNATURE, LoadedModel
from serving.embedded_server.model_store import ModelStore
from serving.stubs import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from serving.tensors import to_typed_proto

Answer = TypeVar("Answer")


def _answered(context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except ServingFault as fault:
        context.abort(fault.code, fault.message)
        raise AssertionError("abort does not return") from fault


def _find(store: ModelStore, spec: Any) -> LoadedModel:
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    if spec.version_label:
        raise invalid(f"Unrecognized servable version label: {spec.version_label}")
    return store.get(spec.name, spec.version.value if spec.HasField("version") else None)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._predict(request, context.time_remaining()))

    def _predict(self, request: Any, seconds: float | None) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        model = _find(self._store, request.model_spec)
        name = request.model_spec.signature_name
        outputs = model.predict(name, dict(request.inputs), list(request.output_filter), seconds)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.model_spec.signature_name = name or DEFAULT_SIGNATURE
        for alias, values in outputs.items():
            response.outputs[alias].CopyFrom(to_typed_proto(values))
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._metadata(request))

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for wanted in request.metadata_field:
            if wanted != "signature_def":
                raise invalid(f"Metadata field {wanted} is not supported")
        model = _find(self._store, request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in model.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._status(request))

    def _status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in self._store.status(spec.name, spec.version.value if spec.HasField("version") else None):
            entry = response.model_version_status.add(version=version, state=state.state)
            entry.status.error_code, entry.status.error_message = state.code, state.message
        return response
