"""What both transports share: a request's count and time, a model's metadata and status."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.embedded_server import inference
from serving.embedded_server.errors import ServingFault, invalid
from serving.embedded_server.loaded_model import LoadedModel
from serving.embedded_server.server_core import ServerCore

log = logging.getLogger("mim")
UNKNOWN_MODEL = "(unknown)"  # label of requests for models that are not served: clients choose names
Answer = TypeVar("Answer")


def ended(api: str, work: Callable[[], Answer]) -> Answer:
    """What `work` returns.

    Raises:
        ServingFault: what `work` raised; INTERNAL for any other exception: a bug of ours is an answer, too.
    """
    try:
        return work()
    except ServingFault:
        raise
    except Exception as error:
        log.exception("%s failed", api)
        raise ServingFault(grpc.StatusCode.INTERNAL, repr(error)[:1_000]) from error


def record_request(core: ServerCore, name: str, api: str, entrypoint: str, work: Callable[[], Answer]) -> Answer:
    """Counts and times a request.

    Args:
        core: Whose metrics.
        name: Of the model.
        api: Predict, Classify, Regress, …
        entrypoint: GRPC or REST.
        work: Answers it.

    Raises:
        ServingFault: what `work` raised; INTERNAL for any other exception.
    """
    label = name if core.manager.knows(name) else UNKNOWN_MODEL
    started = time.perf_counter()
    try:
        answer = ended(api, work)
    except ServingFault as fault:
        core.monitoring.request_count.add(label, fault.code.name)
        raise
    core.monitoring.request_latency.add((time.perf_counter() - started) * 1e6, label, api, entrypoint)
    core.monitoring.request_count.add(label, "OK")
    return answer


def infer(core: ServerCore, api: str, model: LoadedModel, request: Any, seconds: float | None) -> Any:
    """The response to an inference, which the request log may keep.

    Args:
        core: Whose log.
        api: Predict, Classify, Regress or MultiInference.
        model: What answers.
        request: Of this api.
        seconds: How long the run may take; None is without bound.

    Raises:
        ServingFault: with TensorFlow Serving's code and text.
    """
    run = {
        "Predict": inference.predict,
        "Classify": inference.classify,
        "Regress": inference.regress,
        "MultiInference": inference.multi_inference,
    }[api]
    response = run(model, request, seconds)
    core.request_logs.offer(model, api, request, response)
    return response


def model_metadata(core: ServerCore, request: Any) -> Any:
    """A GetModelMetadataResponse.

    Raises:
        ServingFault: INVALID_ARGUMENT or NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for wanted in request.metadata_field:
        if wanted != "signature_def":
            raise invalid(f"Metadata field {wanted} is not supported")
    model = core.find(request.model_spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model.name
    response.model_spec.version.value = model.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in model.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


def model_status(core: ServerCore, request: Any) -> Any:
    """A GetModelStatusResponse.

    Raises:
        ServingFault: INVALID_ARGUMENT or NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in core.status(request.model_spec):
        entry = response.model_version_status.add(version=version, state=state.state)
        entry.status.error_code, entry.status.error_message = state.code, state.message
    return response
