"""One version of a model, ready to answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.embedded_server.batching import BatchingRunner, BatchThreads, model_batching
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.session import Runner, Session
from serving.embedded_server.tflite_session import MODEL_FILE, TfLiteSession
from serving.embedded_server.warm_up import warm_up


@dataclass(frozen=True)
class Signature:
    """A signature as a call needs it.

    Attributes:
        inputs, outputs: Alias → TensorInfo.
        defaults: Alias of an input that may be left out → TensorProto.
        aliases: The inputs' aliases, sorted.
        feeds: Tensor names of `aliases`, in order.
        fetches: Tensor names of all outputs, sorted by alias.
        fetched: Their aliases.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    defaults: dict[str, Any]
    aliases: tuple[str, ...]
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    fetched: tuple[str, ...]

    @staticmethod
    def of(definition: Any) -> Signature:
        """From a SignatureDef."""
        inputs, outputs = dict(definition.inputs), dict(definition.outputs)
        aliases, fetched = tuple(sorted(inputs)), tuple(sorted(outputs))
        return Signature(
            inputs,
            outputs,
            dict(definition.defaults),
            aliases,
            tuple(inputs[alias].name for alias in aliases),
            tuple(outputs[alias].name for alias in fetched),
            fetched,
        )


class LoadedModel:
    """Loads the model in `folder`, puts a batching queue before it where asked, and warms it up.

    Args:
        name: Of the model.
        version: Of the model.
        folder: Of this version.
        options: Of the server.
        monitoring: Where times are counted.
        batch_threads: Shared by all models' queues; None without batching.

    Raises:
        ServingFault: the folder holds no model, its batching parameters are wrong, or a warm-up request failed.
    """

    def __init__(
        self,
        name: str,
        version: int,
        folder: Path,
        options: ServerOptions,
        monitoring: Monitoring,
        batch_threads: BatchThreads | None = None,
    ) -> None:
        self.name, self.version, self.monitoring = name, version, monitoring
        self.as_content = options.enable_serialization_as_tensor_content
        lite = options.prefer_tflite_model and (folder / MODEL_FILE).is_file()
        session = TfLiteSession(folder, options) if lite else Session(folder, options)
        self.definitions = session.definitions
        self.signatures = {key: Signature.of(definition) for key, definition in self.definitions.items()}
        self.runner: Runner = session
        if batch_threads is not None:
            parameters = model_batching(folder, options)
            if parameters is not None:
                self.runner = BatchingRunner(session, parameters, batch_threads, monitoring)
        if options.enable_model_warmup:
            warm_up(self, folder, options.num_request_iterations_for_warmup)
        self.released = threading.Event()

    def __del__(self) -> None:
        if hasattr(self, "released"):
            self.released.set()
