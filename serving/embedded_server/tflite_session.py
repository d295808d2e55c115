"""A TensorFlow Lite model behind the interface of a session.

Source: tensorflow_serving/servables/tensorflow/{tflite_session,saved_model_bundle_factory}.cc, and TensorFlow's
lite/tools/signature/signature_def_util.cc.
"""

from __future__ import annotations

import logging
import os
import queue
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from serving.embedded_server.errors import from_code, invalid
from serving.embedded_server.options import ServerOptions

log = logging.getLogger("mim")

MODEL_FILE = "model.tflite"
SIGNATURES = "signature_defs_metadata"


class TfLiteSession:
    """Loads `model.tflite` in `folder`, with an interpreter for each call that may run at a time; see `session.Runner`.

    Its signatures are the SignatureDefs in the model's metadata.  A model without them has one, `serving_default`,
    whose aliases are the names of the model's tensors without `:0`: TensorFlow Serving does not read the signatures
    that the converter writes.

    Attributes:
        definitions: Name → SignatureDef.

    Raises:
        ServingFault: INVALID_ARGUMENT, the file holds no TensorFlow Lite model, or signatures of unknown tensors.
    """

    def __init__(self, folder: Path, options: ServerOptions) -> None:
        content = (folder / MODEL_FILE).read_bytes()
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        try:
            for _ in range(options.num_tflite_pools or os.cpu_count() or 1):
                self._free.put(_interpreter(content))
        except ValueError as error:
            raise invalid(f"Cannot build FlatBufferModel from buffer. {folder / MODEL_FILE}: {error}") from error
        except RuntimeError as error:  # of an operation that is not linked
            raise from_code(13, f"Cannot build Interpreter from buffer. {folder / MODEL_FILE}: {error}") from error
        interpreter = self._free.queue[0]
        self._inputs = {one["name"]: one for one in interpreter.get_input_details()}
        self._outputs = {one["name"]: one for one in interpreter.get_output_details()}
        self.definitions = _signature_defs(content)
        if not self.definitions:
            log.warning("No signature def found in TFLite model. Generating one.")
            self.definitions = {"serving_default": self._generated()}
        for name, definition in self.definitions.items():
            for side, known in ((definition.inputs, self._inputs), (definition.outputs, self._outputs)):
                for alias, info in side.items():
                    try:
                        info.name = _tensor(known, info.name)["name"]
                    except KeyError as error:
                        raise from_code(
                            13, f"Unknown tensor '{info.name}'. Signature {name}: {alias} references an unknown tensor"
                        ) from error

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        """See `Runner`.  `seconds` bounds the wait for an interpreter; TensorFlow Lite cannot end a run."""
        try:
            interpreter = self._free.get(timeout=seconds)
        except queue.Empty as error:
            raise from_code(4, "Timed out waiting for notification") from error
        try:
            return self._run(interpreter, feeds, arrays, fetches)
        finally:
            self._free.put(interpreter)

    def _run(
        self, interpreter: Any, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...]
    ) -> list[np.ndarray]:
        places = [self._inputs[name]["index"] for name in feeds]
        sizes = {one["index"]: tuple(one["shape"]) for one in interpreter.get_input_details()}
        for place, array in zip(places, arrays, strict=True):
            if sizes[place] != array.shape:
                interpreter.resize_tensor_input(place, array.shape)
        try:
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise from_code(13, f"Failed to allocate tensors: {error}") from error
        try:
            for place, array in zip(places, arrays, strict=True):
                interpreter.set_tensor(place, array)
        except (ValueError, RuntimeError) as error:
            raise invalid(str(error)) from error
        try:
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise from_code(13, f"Failed to invoke TfLite interpreter: {error}") from error
        return [interpreter.get_tensor(self._outputs[name]["index"]) for name in fetches]

    def _generated(self) -> Any:
        definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
        for side, known in ((definition.inputs, self._inputs), (definition.outputs, self._outputs)):
            for name in sorted(known):
                info = side[name.split(":", 1)[0]]
                info.Clear()  # of two names that differ in their `:0` alone the last stays, as there
                info.name, info.dtype = name, tf.as_dtype(known[name]["dtype"]).as_datatype_enum
                for size in known[name]["shape"]:
                    info.tensor_shape.dim.add(size=int(size))
        return definition


def _interpreter(content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _tensor(known: dict[str, Any], name: str) -> Any:
    """The tensor of this name, or without its `:0`, as early converters named it."""
    return known[name] if name in known else known[name.split(":", 1)[0]]


def _signature_defs(content: bytes) -> dict[str, Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for entry in model.metadata or ():
        if entry.name == SIGNATURES.encode():
            found = flexbuffers.GetRoot(bytes(model.buffers[entry.buffer].data)).AsMap
            try:
                return {
                    key.AsString: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
                    for key, value in zip(found.Keys, found.Values, strict=True)
                }
            except Exception as error:  # of a buffer that holds something else
                raise invalid(f"Invalid SignatureDefs found in TfLite model: {error}") from error
    return {}
