"""Requests of several clients run as one batch: TensorFlow Serving's batching session.

Each combination of inputs and outputs of a model has a queue of batches.  A task joins the last batch, or opens one
where it does not fit; threads shared by all queues take a batch when it is full or has waited its time.

A session that is batched so refuses requests whose inputs differ in their first dimension, the ranker's `rank` among
them: there it says "Batching Run() input tensors must have equal 0th-dimension size".  So the ranker's export brings
no `batching_params.pbtxt`; see docs/serving.md.

Source: tensorflow_serving/batching/batching_session.cc, batching_util.cc, and TensorFlow's shared_batch_scheduler.h.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.embedded_server.config_files import read_text_proto
from serving.embedded_server.errors import ServingFault, failed_precondition, from_code, invalid
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.session import Runner
from serving.messages import BatchingParameters

PER_MODEL_FILE = "batching_params.pbtxt"
STOP_SECONDS = 0.5


@dataclass(frozen=True)
class BatchingConfig:
    """BatchingParameters with the scheduler's defaults.

    Attributes:
        max_batch_size: Rows of a task at most, and of a batch.
        batch_timeout_micros: How long a batch that is not full waits for more, at most.
        max_enqueued_batches: Of a queue; beyond it a task is refused.
        allowed_batch_sizes: A batch is padded to the next of them; any size where empty.
        pad_variable_length_inputs: Tasks of different shapes are padded to the largest.
        enable_large_batch_splitting: A task may be spread over several batches of `max_execution_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000

    @staticmethod
    def of(parameters: Any) -> BatchingConfig:
        """From BatchingParameters.

        Raises:
            ServingFault: INVALID_ARGUMENT.
        """
        given = {
            name: getattr(parameters, name).value
            for name in (
                "max_batch_size",
                "batch_timeout_micros",
                "max_enqueued_batches",
                "enable_large_batch_splitting",
                "max_execution_batch_size",
            )
            if parameters.HasField(name)
        }
        given.setdefault("max_execution_batch_size", given.get("max_batch_size", 1000))
        if not given.get("enable_large_batch_splitting") and given.get("max_enqueued_batches") == 0:
            given["max_enqueued_batches"] = 1  # as there, for old files
        config = BatchingConfig(
            allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            **given,
        )
        config._check()
        sizes = config.allowed_batch_sizes
        if sizes and sizes[-1] != config.max_batch_size:
            raise invalid(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {config.max_batch_size}"
            )
        if list(sizes) != sorted(set(sizes)):
            raise invalid(f"allowed_batch_sizes entries must be monotonically increasing; received {list(sizes)}")
        return config

    def _check(self) -> None:
        """As SharedBatchScheduler::AddQueue."""
        if self.max_batch_size <= 0:
            raise invalid(f"input_batch_size_limit must be positive; was {self.max_batch_size}")
        if self.batch_timeout_micros < 0:
            raise invalid(f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}")
        if self.max_enqueued_batches <= 0:
            raise invalid(f"max_enqueued_batches must be positive; was {self.max_enqueued_batches}")
        if self.enable_large_batch_splitting and not 0 < self.max_execution_batch_size <= self.max_batch_size:
            raise invalid(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                f"max_execution_batch_size.1{self.max_batch_size}{self.max_execution_batch_size}"
            )

    @property
    def rows(self) -> int:
        """Of one batch, at most."""
        return self.max_execution_batch_size if self.enable_large_batch_splitting else self.max_batch_size


def common_parameters(options: ServerOptions) -> Any:
    """The BatchingParameters that the server's flags name.

    Raises:
        ValueError: the file cannot be read or parsed.
    """
    if options.batching_parameters_file is None:
        return BatchingParameters()
    return read_text_proto(options.batching_parameters_file, BatchingParameters(), "BatchingParameters")


def model_batching(folder: Path, options: ServerOptions) -> BatchingConfig | None:
    """How the SavedModel in `folder` is batched; None for not at all.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    try:
        if not options.enable_per_model_batching_parameters:
            return BatchingConfig.of(common_parameters(options))
        file = folder / PER_MODEL_FILE
        if not file.is_file():
            return None
        return BatchingConfig.of(read_text_proto(file, BatchingParameters(), "BatchingParameters"))
    except ValueError as error:
        raise invalid(str(error)) from error


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass
class _Task:
    arrays: Sequence[np.ndarray]
    rows: int
    deadline: float | None
    enqueued: float
    # Held until there is a result: a bare lock wakes its waiter faster than an Event.
    done: threading.Lock = field(default_factory=_held)
    result: list[np.ndarray] | None = None
    fault: ServingFault | None = None

    def part(self, start: int, rows: int) -> _Task:
        """Some of its rows."""
        return _Task([array[start : start + rows] for array in self.arrays], rows, self.deadline, self.enqueued)


@dataclass
class _Batch:
    queue: _Queue
    ready: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0

    def end(self, fault: ServingFault | None) -> None:
        """Lets the callers go on, with their results or with what went wrong."""
        for task in self.tasks:
            task.fault = fault
            task.done.release()


class BatchThreads:
    """The threads that run batches of all queues, oldest first.

    Args:
        count: Batches run at a time.
        name: For the metric of waiting times.
    """

    def __init__(self, count: int = 0, name: str = "") -> None:
        self.name = name
        self._waiting: deque[_Batch] = deque()
        self.changed = threading.Condition()
        self._stopped = self._draining = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(count or os.cpu_count() or 1)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def of(options: ServerOptions) -> BatchThreads | None:
        """As the server's flags ask; None without batching.

        Raises:
            ValueError: the parameters' file cannot be read or parsed.
        """
        if not options.enable_batching:
            return None
        parameters = common_parameters(options)
        count = parameters.num_batch_threads.value if parameters.HasField("num_batch_threads") else 0
        return BatchThreads(count, parameters.thread_pool_name.value or "model_server_batch_threads")

    def drain(self) -> None:
        """Runs batches without waiting for more tasks from now on."""
        with self.changed:
            self._draining = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Ends the threads; batches that wait are not run, and their calls end with UNAVAILABLE.

        A batch that still runs after `STOP_SECONDS` is left: nothing can interrupt TensorFlow.
        """
        with self.changed:
            self._stopped = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self.changed.notify_all()
        for batch in waiting:
            batch.end(from_code(14, "the server stops"))
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def add(self, batch: _Batch) -> None:
        """Takes a batch that was just opened; `changed` is held.

        Raises:
            ServingFault: UNAVAILABLE, the threads have ended.
        """
        if self._stopped:
            raise from_code(14, "the server stops")
        self._waiting.append(batch)
        self.changed.notify(2)  # the batch before it is closed by it

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            batch.queue.run_batch(batch)
            del batch  # or an unloaded model would live until this thread's next batch

    def _next(self) -> _Batch | None:
        with self.changed:
            while not self._stopped:
                now = time.monotonic()
                soonest = None
                for batch in self._waiting:
                    if (
                        self._draining
                        or batch.ready <= now
                        or batch.rows >= batch.queue.config.rows
                        or not batch.queue.is_open(batch)
                    ):
                        self._waiting.remove(batch)
                        batch.queue.taken(batch)
                        return batch
                    soonest = batch.ready if soonest is None else min(soonest, batch.ready)
                self.changed.wait(None if soonest is None else soonest - now)
        return None


class _Queue:
    """Batches of one combination of feeds and fetches."""

    def __init__(
        self,
        runner: Runner,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
        config: BatchingConfig,
        threads: BatchThreads,
        monitoring: Monitoring,
    ) -> None:
        self.config = config
        self._runner, self._feeds, self._fetches = runner, feeds, fetches
        self._threads, self._monitoring = threads, monitoring
        self._open: _Batch | None = None
        self._enqueued = 0

    def is_open(self, batch: _Batch) -> bool:
        """Whether tasks may still join it."""
        return batch is self._open

    def taken(self, batch: _Batch) -> None:
        """A thread has it now; `changed` is held."""
        self._enqueued -= 1
        if batch is self._open:
            self._open = None

    def schedule(self, task: _Task) -> list[_Task]:
        """Puts a task in a batch, or its parts in several; returns them in order.

        Raises:
            ServingFault: it is too large, or the queue has no room for all of it.
        """
        config = self.config
        if task.rows > config.max_batch_size:
            raise invalid(f"Task size {task.rows} is larger than maximum input batch size {config.max_batch_size}")
        with self._threads.changed:
            parts = self._split(task) if config.enable_large_batch_splitting else [task]
            for part in parts:
                self._add(part)
        return parts

    def _split(self, task: _Task) -> list[_Task]:
        """What fills the open batch, then whole batches, then the rest."""
        config, limit = self.config, self.config.rows
        free = limit - self._open.rows if self._open is not None else 0
        capacity = free + (config.max_enqueued_batches - self._enqueued) * limit
        if task.rows > capacity:
            raise from_code(
                14,
                "The batch scheduling queue to which this task was submitted is full; task size is "
                f"{task.rows} but scheduling capacity is only {capacity} "
                f"(num_enqueued_batches={max(1, self._enqueued)}, "
                f"max_enqueued_batches={config.max_enqueued_batches}, "
                f"open_batch_size={limit - free if self._open is not None else 0}, max_execution_batch_size={limit})",
            )
        if task.rows <= (free or limit):
            return [task]
        starts = [*([0] if free else []), *range(free, task.rows, limit)]
        return [task.part(start, end - start) for start, end in zip(starts, [*starts[1:], task.rows], strict=True)]

    def _add(self, task: _Task) -> None:
        """To the open batch, or to a new one; `changed` is held."""
        config, batch = self.config, self._open
        if batch is None or batch.rows + task.rows > config.rows:
            if self._enqueued >= config.max_enqueued_batches:
                raise from_code(
                    14,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{self._enqueued} batches enqueued and max_enqueued_batches is {config.max_enqueued_batches}",
                )
            batch = _Batch(self, task.enqueued + config.batch_timeout_micros / 1e6)
            batch.tasks.append(task)
            batch.rows += task.rows
            self._threads.add(batch)
            self._open, self._enqueued = batch, self._enqueued + 1
            return
        batch.tasks.append(task)
        batch.rows += task.rows
        if batch.rows >= config.rows:
            self._threads.changed.notify()

    def run_batch(self, batch: _Batch) -> None:
        """Runs it and gives each task its rows, or all of them what went wrong."""
        fault: ServingFault | None = None
        try:
            self._run(batch)
        except ServingFault as found:
            fault = found
        except Exception as error:  # a bug of ours must reach the callers, not end the thread
            fault = from_code(13, f"batching failed: {error!r}")
        batch.end(fault)

    def _run(self, batch: _Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            self._monitoring.queuing_latency.add((now - task.enqueued) * 1e6, self._threads.name)
        alive = [task for task in batch.tasks if task.deadline is None or task.deadline > now]
        if not alive:
            raise from_code(8, "Run() timeout exceeded while waiting in batching queue")
        deadlines = [task.deadline for task in alive]
        known = [deadline for deadline in deadlines if deadline is not None]
        seconds = max(known) - now if len(known) == len(deadlines) else None
        padding = self._padding(batch.rows)
        arrays = [
            self._merge(name, [task.arrays[i] for task in batch.tasks], padding) for i, name in enumerate(self._feeds)
        ]
        self._monitoring.wrapped_run_count.add()
        outputs = self._runner.run(self._feeds, arrays, self._fetches, seconds)
        for output in outputs:
            if not np.ndim(output):
                raise failed_precondition("Batched output tensor has 0 dimensions")
            if len(output) != batch.rows + padding:
                raise failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors"
                )
        start = 0
        for task in batch.tasks:
            task.result = [output[start : start + task.rows] for output in outputs]
            start += task.rows

    def _padding(self, rows: int) -> int:
        if not rows:
            return 0  # there is no row to pad with
        return next((size for size in self.config.allowed_batch_sizes if size >= rows), rows) - rows

    def _merge(self, name: str, arrays: list[np.ndarray], padding: int) -> np.ndarray:
        if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            if not self.config.pad_variable_length_inputs:
                raise failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and padding "
                    "is turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same "
                    "name have equal dimensions starting with the first dim."
                )
            arrays = _padded(arrays)
        if padding:
            filled = next(array for array in reversed(arrays) if len(array))
            arrays = [*arrays, np.repeat(filled[:1], padding, axis=0)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class BatchingRunner:
    """Queues before a session; see `Runner`.

    Args:
        runner: What runs a batch.
        config: Sizes and times.
        threads: Shared with other models.
        monitoring: Where waiting times are counted.
    """

    def __init__(self, runner: Runner, config: BatchingConfig, threads: BatchThreads, monitoring: Monitoring) -> None:
        self._runner, self._config, self._threads, self._monitoring = runner, config, threads, monitoring
        self._queues: dict[tuple[tuple[str, ...], tuple[str, ...]], _Queue] = {}
        self._lock = threading.Lock()

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        """See `Runner`; also raises what batching refuses."""
        rows = _rows(arrays)
        now = time.monotonic()
        deadline = None if seconds is None else now + seconds
        queue = self._queue(feeds, fetches)
        parts = queue.schedule(_Task(arrays, rows, deadline, now))
        results = [self._await(part) for part in parts]
        if len(parts) == 1:
            return results[0]
        return [np.concatenate(of_parts) for of_parts in zip(*results, strict=True)]

    @staticmethod
    def _await(task: _Task) -> list[np.ndarray]:
        task.done.acquire()
        if task.fault is not None:
            raise task.fault
        assert task.result is not None
        return task.result

    def _queue(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> _Queue:
        queue = self._queues.get((feeds, fetches))
        if queue is None:
            with self._lock:
                queue = self._queues.setdefault(
                    (feeds, fetches),
                    _Queue(self._runner, feeds, fetches, self._config, self._threads, self._monitoring),
                )
        return queue


def _rows(arrays: Sequence[np.ndarray]) -> int:
    if not arrays:
        raise invalid("Batching Run() must have at least one input tensor")
    if not all(array.ndim for array in arrays):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    rows = len(arrays[0])
    if any(len(array) != rows for array in arrays):
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return rows


def _padded(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Grown to the largest of each dimension but the first; what is added is the array's own first value."""
    if any(array.ndim != arrays[0].ndim for array in arrays):
        raise invalid("Only tensors of one rank can be padded to a batch")
    largest = np.max([array.shape for array in arrays], axis=0)
    grown = []
    for array in arrays:
        if not array.size:
            raise invalid("Got empty tensor in batch of non-empty tensors.")
        full = np.full((len(array), *largest[1:]), array.flat[0], array.dtype)
        full[tuple(slice(0, size) for size in array.shape)] = array
        grown.append(full)
    return grown
