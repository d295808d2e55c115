"""A small model to serve: x + y + amount."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.tensors import to_proto

NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
UNAVAILABLE, FAILED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION


class Adder(tf.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = tf.Variable(amount)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.float32, "y")])
    def add(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": x + y + self.amount, "amount": self.amount}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def shift(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"shifted": x + self.amount}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def total(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"total": tf.reduce_sum(x, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None, 2], tf.int64, "n")])
    def echo(self, text: tf.Tensor, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": text, "text_bytes": text, "n": n, "half": tf.cast(n, tf.float32) / 2}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "steps")])
    def slow(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        matrix = tf.random.normal([300, 300])
        last = tf.while_loop(lambda i, _: i < steps, lambda i, m: (i + 1, tf.tanh(m @ m)), [0, matrix])[1]
        return {"sum": tf.reduce_sum(last)}


def export(folder: Path, amount: float, warm_up: Callable[[Path], None] | None = None) -> None:
    """Writes a version the safe way: beside its place, then renamed."""
    module = Adder(amount)
    part = folder.parent / f"{folder.name}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    signatures = {
        "serving_default": module.add,
        "shift": module.shift,
        "total": module.total,
        "echo": module.echo,
        "slow": module.slow,
    }
    tf.saved_model.save(module, str(part), signatures)
    if warm_up is not None:
        warm_up(part)
    part.rename(folder)


def request(**changes: Any) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = changes.get("name", "adder")
    made.model_spec.signature_name = changes.get("signature", "")
    if "version" in changes:
        made.model_spec.version.value = changes["version"]
    if "label" in changes:
        made.model_spec.version_label = changes["label"]
    for alias, values in changes.get("inputs", {"x": [1.0, 2.0], "y": [0.5, 0.5]}).items():
        array = values if isinstance(values, np.ndarray) else np.asarray(values, changes.get("dtype", np.float32))
        to_proto(array, made.inputs[alias])
    made.output_filter.extend(changes.get("outputs", []))
    return made


def predict(channel: grpc.Channel, made: predict_pb2.PredictRequest, timeout: float | None = 10) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(made, timeout=timeout)


def states(channel: grpc.Channel, name: str = "adder", version: int | None = None) -> list[tuple[int, int, int]]:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = name
    if version is not None:
        asked.model_spec.version.value = version
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked, timeout=5)
    return [(entry.version, entry.state, entry.status.error_code) for entry in response.model_version_status]


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
