"""A SavedModel in a TensorFlow session of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations
from tensorflow.python.client import pywrap_tf_session

from serving.embedded_server.errors import ServingFault, from_code
from serving.embedded_server.options import ServerOptions

# A feed and a fetch are names of tensors in the graph.
MAX_READY = 64  # combinations of feeds and fetches kept ready; clients choose them by `output_filter`


class Runner(Protocol):
    """What computes outputs from inputs: a session, or a batching queue before one."""

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        """The fetched tensors.

        Args:
            feeds: Names of tensors, as `serving_default_x:0`.
            arrays: What to feed, in order.
            fetches: Names of tensors.
            seconds: How long it may take; None is without bound.

        Raises:
            ServingFault: with the code and text of the runtime.
        """


class Session:
    """Loads the SavedModel in `folder`.

    It is closed when the last reference goes, so calls in flight outlive an unload.

    Attributes:
        definitions: Name → SignatureDef.

    Raises:
        ServingFault: the folder holds no SavedModel, or none that loads.
    """

    def __init__(self, folder: Path, options: ServerOptions) -> None:
        self._ready: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        if not any((folder / file).is_file() for file in ("saved_model.pb", "saved_model.pbtxt")):
            raise from_code(
                5,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}. Check that "
                "the directory exists and that you have the right permissions for accessing it.",
            )
        both = options.tensorflow_session_parallelism
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=both or options.tensorflow_intra_op_parallelism,
            inter_op_parallelism_threads=both or options.tensorflow_inter_op_parallelism,
        )
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                tags = options.saved_model_tags.split(",")
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, tags, str(folder))
                self._session._extend_graph()
        except Exception as error:  # whatever a broken folder can raise: it must not end the server
            raise _fault(error) from error
        self.definitions = dict(meta_graph.signature_def)

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        """See `Runner`."""
        places, wanted = self._handles(feeds, fetches)
        options = None
        if seconds is not None:
            timeout = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(seconds * 1000)))
            options = pywrap_tf_session.TF_NewBufferFromString(timeout.SerializeToString())
        try:
            # Session.run is this call after 90 us of Python, and refuses some inputs in words of its own.
            return self._session._call_tf_sessionrun(options, dict(zip(places, arrays, strict=True)), wanted, [], None)
        except tf.errors.OpError as error:
            raise from_code(error.error_code, error.message) from error
        except (ValueError, TypeError, RuntimeError) as error:  # an array that TensorFlow has no type for
            raise from_code(3, str(error)) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    def _handles(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> tuple[list[Any], list[Any]]:
        """The runtime's own names of tensors."""
        key = (feeds, fetches)
        ready = self._ready.get(key)
        if ready is None:
            graph = self._session.graph
            ready = tuple([graph.get_tensor_by_name(name)._as_tf_output() for name in names] for names in key)
            with self._lock:
                if len(self._ready) >= MAX_READY:
                    self._ready.clear()
                self._ready[key] = ready
        return ready


def _fault(error: Exception) -> ServingFault:
    return from_code(getattr(error, "error_code", 2), getattr(error, "message", str(error)))
