"""A sample of the requests and their answers in files, as a model's `logging_config` asks: PredictionLogs in TFRecords.

A file can be read by `tf.data`, and be a version's warm-up file.  TensorFlow Serving leaves the collector to who builds
the server: the stock one refuses a configuration that has a `logging_config`.

Source: tensorflow_serving/core/{server_request_logger,request_logger,log_collector}.cc, apis/prediction_log.proto.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded_server.errors import from_code, invalid
from serving.embedded_server.loaded_model import LoadedModel
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions

log = logging.getLogger("mim")

COLLECTOR = "tfrecord"
MAX_WAITING, MAX_WAITING_BYTES = 1_000, 64 << 20  # records that wait for the disk
FLUSH_SECONDS, WARNING_SECONDS, STOP_SECONDS = 1.0, 60.0, 0.5
MAX_FILE_SECONDS = 3_600.0
# api → field of PredictionLog
_KINDS = {
    "Predict": "predict_log",
    "Classify": "classify_log",
    "Regress": "regress_log",
    "MultiInference": "multi_inference_log",
}
_numbers = itertools.count(1)  # no two files of a process have one name


def check_logging(model: Any, root: Path | None, confined: bool) -> None:
    """Refuses a ModelConfig whose `logging_config` cannot be followed.

    Args:
        model: The ModelConfig.
        root: Where the files must lie; None for anywhere.
        confined: Whether the models are confined, so that the files have to be, too.

    Raises:
        ServingFault: NOT_FOUND for an unknown collector, as TensorFlow Serving; else INVALID_ARGUMENT.
    """
    config = model.logging_config
    collector, sampling = config.log_collector_config, config.sampling_config
    if collector.type not in ("", COLLECTOR):
        raise from_code(5, f"Cannot find LogCollector::Factory for type: {collector.type}; here it is {COLLECTOR!r}")
    prefix = collector.filename_prefix
    if not prefix.startswith("/") or prefix.endswith("/") or not prefix.isprintable():
        raise invalid(
            f"logging_config of model {model.name}: filename_prefix must be an absolute path that ends in the start of "
            f"a file's name; received {prefix[:500]!r}"
        )
    if root is None and confined:
        raise invalid(
            f"logging_config of model {model.name}: --models_root confines the configurations; set --request_log_root"
        )
    if root is not None and not Path(prefix).resolve().is_relative_to(root.resolve()):
        raise invalid(
            f"logging_config of model {model.name}: filename_prefix must lie below --request_log_root {root}; "
            f"received {prefix[:500]!r}"
        )
    if not 0 <= sampling.sampling_rate <= 1:
        raise invalid(
            f"logging_config of model {model.name}: sampling_rate must be from 0 to 1; received "
            f"{sampling.sampling_rate:g}"
        )
    if sampling.attributes or config.HasField("custom_logging_config"):
        raise invalid(
            f"logging_config of model {model.name}: sampling_config.attributes and custom_logging_config are not "
            "supported; leave them out"
        )


class _Collector:
    """The files of one LoggingConfig; used by the writing thread alone, but for `config` and `rate`.

    Args:
        config: The LoggingConfig.
        options: Sizes and numbers of files.
    """

    def __init__(self, config: Any, options: ServerOptions) -> None:
        self.config, self.rate = config, config.sampling_config.sampling_rate
        self._prefix = Path(config.log_collector_config.filename_prefix)
        self._options = options
        self._writer: Any = None
        self._part = self._prefix
        self._opened, self._bytes = 0.0, 0

    @property
    def old(self) -> bool:
        """Whether its file has had its time."""
        return self._writer is not None and time.monotonic() - self._opened > MAX_FILE_SECONDS

    def full(self, record: bytes) -> bool:
        """Whether the file has no room for a record."""
        return self._bytes > 0 and self._bytes + len(record) > self._options.request_log_file_bytes

    def write(self, record: bytes) -> None:
        """Appends a record, to a new file where there is none.

        Raises:
            OSError, tf.errors.OpError: the disk refuses it.
        """
        if self._writer is None:
            self._prefix.parent.mkdir(parents=True, exist_ok=True)
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"{self._prefix.name}-{stamp}-{os.getpid()}-{next(_numbers)}.tfrecord"
            self._part = self._prefix.with_name(f"{name}.part")
            self._writer = tf.io.TFRecordWriter(str(self._part))
            self._opened = time.monotonic()
        self._writer.write(record)
        self._bytes += len(record) + 16  # length and checksums

    def flush(self) -> None:
        """Gives what was written to the operating system.

        Raises:
            OSError, tf.errors.OpError: the disk refuses it.
        """
        if self._writer is not None:
            self._writer.flush()

    def abandon(self) -> None:
        """Leaves the file as it is: half a record at its end would spoil those after it."""
        self._writer, self._bytes = None, 0

    def close(self) -> None:
        """Ends the file and gives it its name without `.part`; removes the oldest of too many.

        Raises:
            OSError, tf.errors.OpError: the disk refuses it.
        """
        writer, self._writer, self._bytes = self._writer, None, 0
        if writer is None:
            return
        writer.close()
        self._part.rename(self._part.with_suffix(""))
        pattern = re.compile(re.escape(self._prefix.name) + r"-(\d{8}T\d{6})-\d+-(\d+)\.tfrecord")
        found = [(match[1], int(match[2]), match[0]) for name in os.listdir(self._prefix.parent)
                 if (match := pattern.fullmatch(name))]  # fmt: skip
        for *_, name in sorted(found)[: -self._options.request_log_files]:
            log.info("request log %s is removed: --request_log_files=%d", name, self._options.request_log_files)
            self._prefix.with_name(name).unlink()


@dataclass(frozen=True)
class _Record:
    collector: _Collector
    api: str
    entry: Any
    request: Any
    response: Any


class PredictionLogs:
    """Request logs of all models of a server.  Neither a slow disk nor a full one holds a call up or fails it.

    Args:
        options: Where files may lie, how large and how many they are.
        monitoring: Where records are counted, by TensorFlow Serving's `request_log_count`: those that the disk had no
            time for as RESOURCE_EXHAUSTED, those it refused as UNAVAILABLE.
    """

    def __init__(self, options: ServerOptions, monitoring: Monitoring) -> None:
        self._options, self._monitoring = options, monitoring
        self._collectors: dict[bytes, _Collector] = {}
        self._of_model: dict[str, _Collector] = {}
        self._changed = threading.Condition()
        self._waiting: deque[_Record] = deque()
        self._closing: list[_Collector] = []
        # Records that were written since the last flush, by their models: a disk may refuse them only then.
        self._unflushed: defaultdict[_Collector, Counter[str]] = defaultdict(Counter)
        self._bytes = 0
        self._warned = -WARNING_SECONDS
        self._stopped = False
        self._thread: threading.Thread | None = None

    def check(self, models: Sequence[Any]) -> None:
        """Refuses ModelConfigs whose logging cannot be followed; see `check_logging`.

        Raises:
            ServingFault: NOT_FOUND or INVALID_ARGUMENT.
        """
        for model in models:
            if model.HasField("logging_config"):
                check_logging(model, self._options.request_log_root, self._options.models_root is not None)

    def update(self, models: Sequence[Any]) -> None:
        """Logs as these ModelConfigs ask from now on.  Models of equal LoggingConfigs share their files, as there.

        Raises:
            ServingFault: see `check`; all is as it was.
        """
        self.check(models)
        collectors: dict[bytes, _Collector] = {}
        of_model = {}
        for model in models:
            if model.HasField("logging_config"):
                key = model.logging_config.SerializeToString(deterministic=True)
                if key not in collectors:
                    collectors[key] = self._collectors.get(key) or _Collector(model.logging_config, self._options)
                of_model[model.name] = collectors[key]
        with self._changed:
            self._closing += [one for key, one in self._collectors.items() if key not in collectors]
            self._collectors, self._of_model = collectors, of_model
            if collectors and self._thread is None:
                self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def offer(self, model: LoadedModel, api: str, request: Any, response: Any) -> None:
        """Logs the call, if it is drawn; returns at once.

        Args:
            model: What answered.
            api: Predict, Classify, Regress or MultiInference.
            request: Neither it nor the response may change from now on.
            response: The answer.
        """
        collector = self._of_model.get(model.name)
        if collector is None or random.random() >= collector.rate:
            return
        entry = prediction_log_pb2.PredictionLog()
        spec = entry.log_metadata.model_spec
        spec.name, spec.version.value = model.name, model.version
        spec.signature_name = request.model_spec.signature_name if api != "MultiInference" else ""
        entry.log_metadata.sampling_config.CopyFrom(collector.config.sampling_config)
        entry.log_metadata.saved_model_tags.extend(self._options.saved_model_tags.split(","))
        entry.log_metadata.timestamp_secs = int(time.time())
        size = request.ByteSize() + response.ByteSize()
        with self._changed:
            if self._of_model.get(model.name) is not collector:
                return  # another configuration by now
            if self._stopped or len(self._waiting) >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES:
                self._dropped(model.name, "RESOURCE_EXHAUSTED", f"{len(self._waiting)} records wait for the disk")
                return
            self._waiting.append(_Record(collector, api, entry, request, response))
            self._bytes += size
            self._changed.notify()

    def stop(self) -> None:
        """Writes what waits, for `STOP_SECONDS` at most, and closes the files."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _write(self) -> None:
        flushed = time.monotonic()
        while True:
            with self._changed:
                if not (self._waiting or self._closing or self._stopped):
                    self._changed.wait(FLUSH_SECONDS)
                waiting, closing, stopped = list(self._waiting), self._closing, self._stopped
                self._waiting.clear()
                self._closing, self._bytes = [], 0
            for record in waiting:
                self._append(record)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                flushed = time.monotonic()
                for collector in list(self._unflushed):
                    self._settle(collector, collector.flush)
            ends = [one for one in self._collectors.values() if stopped or one.old]
            for collector in [*closing, *ends]:
                self._settle(collector, collector.close)
            if stopped:
                return

    def _append(self, record: _Record) -> None:
        entry, collector = record.entry, record.collector
        target = getattr(entry, _KINDS[record.api])
        target.request.CopyFrom(record.request)
        target.response.CopyFrom(record.response)
        try:
            text = entry.SerializeToString()
            if collector.full(text):
                self._settle(collector, collector.close)
            self._unflushed[collector][entry.log_metadata.model_spec.name] += 1
            collector.write(text)
        except Exception as error:
            self._failed(collector, error)

    def _settle(self, collector: _Collector, work: Callable[[], None]) -> None:
        """Flushes or closes the collector's file, and counts what that did with the records since the last time."""
        try:
            work()
        except Exception as error:
            self._failed(collector, error)
            return
        for name, count in self._unflushed.pop(collector, Counter()).items():
            self._monitoring.request_log_count.add(name, "OK", count=count)

    def _failed(self, collector: _Collector, error: Exception) -> None:
        """The disk, or a message that is too large: the next record may be written."""
        collector.abandon()
        for name, count in self._unflushed.pop(collector, Counter()).items():
            self._dropped(name, "UNAVAILABLE", str(error) or repr(error), count)

    def _dropped(self, name: str, code: str, told: str, count: int = 1) -> None:
        self._monitoring.request_log_count.add(name, code, count=count)
        if time.monotonic() - self._warned >= WARNING_SECONDS:
            self._warned = time.monotonic()
            log.warning("records of the request log are dropped (metric request_log_count): %s", told)
