"""A SavedModel in a TensorFlow session of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations

from serving.embedded_server.errors import ServingFault, from_code
from serving.embedded_server.options import ServerOptions

# A feed and a fetch are names of tensors in the graph.
MAX_CALLABLES = 64  # combinations of feeds and fetches kept ready; clients choose them by `output_filter`


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

    Raises:
        ServingFault: the folder holds no SavedModel, or none that loads.
    """

    def __init__(self, folder: Path, options: ServerOptions) -> None:
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., Any]] = {}
        self._lock = threading.Lock()
        if not any((folder / file).is_file() for file in ("saved_model.pb", "saved_model.pbtxt")):
            raise from_code(
                5,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}. Check that "
                "the directory exists and that you have the right permissions for accessing it.",
            )
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism,
            inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism,
        )
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                tags = options.saved_model_tags.split(",")
                self.meta_graph = tf.compat.v1.saved_model.loader.load(self._session, tags, str(folder))
        except Exception as error:  # whatever a broken folder can raise: it must not end the server
            raise _fault(error) from error

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        """See `Runner`."""
        options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(seconds * 1000)) if seconds is not None else 0)
        try:
            return self._callable(feeds, fetches)(*arrays, options=options)
        except tf.errors.OpError as error:
            raise from_code(error.error_code, error.message) from error
        except (ValueError, TypeError, RuntimeError) as error:  # what Python's side of a session refuses
            raise from_code(3, str(error)) from error

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., Any]:
        key = (feeds, fetches)
        ready = self._callables.get(key)
        if ready is None:
            with self._lock, self._session.graph.as_default():
                if len(self._callables) >= MAX_CALLABLES:
                    self._callables.clear()
                ready = self._session.make_callable(list(fetches), list(feeds), accept_options=True)
                self._callables[key] = ready
        return ready


def _fault(error: Exception) -> ServingFault:
    return from_code(getattr(error, "error_code", 2), getattr(error, "message", str(error)))
