"""Replay of the requests that an export carries, before its first real one."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded_server import inference
from serving.embedded_server.errors import ServingFault, from_code, invalid

if TYPE_CHECKING:
    from serving.embedded_server.loaded_model import LoadedModel

log = logging.getLogger("mim")

RECORDS = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000


def warm_up(model: LoadedModel, folder: Path, iterations: int = 1) -> None:
    """Sends the recorded requests through the model.

    Raises:
        ServingFault: a request failed, or the file is not what it should be.
    """
    path = folder / RECORDS
    if not path.is_file():
        return
    started, status = time.monotonic(), "OK"
    try:
        _replay(model, path, max(1, iterations))
    except ServingFault as fault:
        status = fault.code.name
        raise
    finally:
        model.monitoring.warmup_latency.add((time.monotonic() - started) * 1e6, str(folder), status)


def _replay(model: LoadedModel, path: Path, iterations: int) -> None:
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            count += 1
            try:
                entry = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                raise invalid(f"Failed to parse warmup record: {record!r} from {path}") from error
            for _ in range(iterations):
                _run(model, entry)
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    except tf.errors.DataLossError as error:
        raise from_code(15, f"{error.message}. Please verify your warmup data is in TFRecord format.") from error
    log.info("model %s: version %d warmed up with %d requests", model.name, model.version, count)


def _run(model: LoadedModel, entry: Any) -> None:
    kind = entry.WhichOneof("log_type")
    if kind == "predict_log":
        inference.predict(model, entry.predict_log.request, None)
    elif kind == "classify_log":
        inference.classify(model, entry.classify_log.request, None)
    elif kind == "regress_log":
        inference.regress(model, entry.regress_log.request, None)
    elif kind == "multi_inference_log":
        inference.multi_inference(model, entry.multi_inference_log.request, None)
    elif kind is not None:
        number = entry.DESCRIPTOR.fields_by_name[kind].number
        raise from_code(12, f"Unsupported log_type for warmup: {number}")
