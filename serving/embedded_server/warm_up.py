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
from serving.embedded_server.errors import from_code, invalid

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
    started, count, loss = time.monotonic(), 0, None
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(path)), 1):
            try:
                entry = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                raise invalid(f"Failed to parse warmup record: {record!r} from {path}") from error
            for _ in range(max(1, iterations)):
                _run(model, entry)
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    except tf.errors.DataLossError as error:
        loss = error
    status = "OK" if loss is None else f"DATA_LOSS: {loss.message}"  # a request that fails is not counted, as there
    model.monitoring.warmup_latency.add((time.monotonic() - started) * 1e6, str(folder), status)
    model.monitoring.warmup_records_read.add(str(folder), status, count=count)
    if loss is not None:
        raise from_code(15, f"{loss.message}. Please verify your warmup data is in TFRecord format.") from loss
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
