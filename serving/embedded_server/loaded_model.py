"""One version of a model: its SavedModel in a session of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded_server.errors import ServingFault, failed_precondition, from_code, invalid
from serving.stubs import types_pb2
from serving.tensors import TensorError, to_array

DEFAULT_SIGNATURE = "serving_default"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
MAX_WARM_UP_RECORDS = 1000


class LoadedModel:
    """Loads and warms up the SavedModel in `folder`.

    The session is closed when the last reference goes, so calls in flight outlive an unload.

    Raises:
        ServingFault: the folder holds no SavedModel, or a warm-up request failed.
    """

    def __init__(self, name: str, version: int, folder: Path) -> None:
        self.name, self.version = name, version
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., Any]] = {}
        self._lock = threading.Lock()
        if not any((folder / file).is_file() for file in ("saved_model.pb", "saved_model.pbtxt")):
            raise from_code(
                5,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}. Check that "
                "the directory exists and that you have the right permissions for accessing it.",
            )
        graph = tf.Graph()
        # Serving runs many small calls side by side; one pool of threads serves them all.
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                self.meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        except (tf.errors.OpError, RuntimeError, OSError, ValueError) as error:
            raise ServingFault(*_code_and_text(error)) from error
        self.signatures = dict(self.meta_graph.signature_def)
        self._warm_up(folder / WARM_UP)

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def predict(
        self, signature_name: str, inputs: dict[str, Any], output_filter: Sequence[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        """Runs a signature on TensorProtos.

        Args:
            signature_name: Empty for the default.
            inputs: Alias → TensorProto.
            output_filter: Outputs wanted; all where empty.
            seconds: How long the run may take.

        Raises:
            ServingFault: with TensorFlow Serving's code and text.
        """
        name = signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise failed_precondition(f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        aliases = _check_inputs(signature, inputs)
        outputs = _check_outputs(signature, output_filter)
        feeds = []
        for place, alias in enumerate(aliases):
            wanted, sent = signature.inputs[alias].dtype, inputs[alias].dtype
            if wanted != sent:
                raise invalid(f"Expects arg[{place}] to be {_type_name(wanted)} but {_type_name(sent)} is provided")
            try:
                feeds.append(to_array(inputs[alias]))
            except TensorError as error:
                raise invalid(f"tensor parsing error: {alias}") from error
        options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(seconds * 1000)) if seconds else 0)
        try:
            values = self._callable(name, signature, aliases, outputs)(*feeds, options=options)
        except tf.errors.OpError as error:
            raise from_code(error.error_code, error.message) from error
        return dict(zip(outputs, values, strict=True))

    def _callable(
        self, name: str, signature: Any, aliases: tuple[str, ...], outputs: tuple[str, ...]
    ) -> Callable[..., Any]:
        key = (name, outputs)
        if key not in self._callables:
            with self._lock, self._session.graph.as_default():
                tensors = [signature.inputs[alias].name for alias in aliases]
                fetches = [signature.outputs[alias].name for alias in outputs]
                self._callables[key] = self._session.make_callable(fetches, tensors, accept_options=True)
        return self._callables[key]

    def _warm_up(self, records: Path) -> None:
        if not records.is_file():
            return
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(records)), 1):
            if count > MAX_WARM_UP_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_WARM_UP_RECORDS}) at {records}")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("predict_log"):
                request = log.predict_log.request
                self.predict(request.model_spec.signature_name, dict(request.inputs), list(request.output_filter), None)


def _check_inputs(signature: Any, inputs: dict[str, Any]) -> tuple[str, ...]:
    """The signature's aliases in order, once `inputs` is known to hold just these."""
    wanted, sent = set(signature.inputs), set(inputs)
    if len(wanted) != len(sent):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_listed(sent)}) != "
            f"len({_listed(wanted)}). Sent extra: {_listed(sent - wanted)}. "
            f"Missing but required: {_listed(wanted - sent)}."
        )
    for alias in sorted(wanted):
        if alias not in sent:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_listed(sent)}, or default input "
                "alias set: "
            )
    return tuple(sorted(wanted))


def _check_outputs(signature: Any, output_filter: Sequence[str]) -> tuple[str, ...]:
    if len(set(output_filter)) != len(output_filter):
        twice = next(alias for alias in output_filter if list(output_filter).count(alias) > 1)
        raise invalid(f"duplicate output tensor alias: {twice}")
    for alias in output_filter:
        if alias not in signature.outputs:
            expected = _listed(set(signature.outputs))
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {expected}."
            )
    return tuple(output_filter) or tuple(sorted(signature.outputs))


def _type_name(number: int) -> str:
    """As the runtime writes it: float, double, int64, string."""
    return str(types_pb2.DataType.Name(number)).removeprefix("DT_").lower()


def _listed(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _code_and_text(error: Exception) -> tuple[Any, str]:
    fault = from_code(getattr(error, "error_code", 2), getattr(error, "message", str(error)))
    return fault.code, fault.message
