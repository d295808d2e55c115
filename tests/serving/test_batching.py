"""Requests of several clients in one batch: TensorFlow Serving's queue, its limits and its texts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.embedded_server.batching import BatchingConfig, BatchingRunner, BatchThreads
from serving.embedded_server.errors import ServingFault
from serving.embedded_server.monitoring import Monitoring
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.messages import BatchingParameters
from serving.tensors import to_array
from tests.serving.adder import INVALID, export, predict, request


class Doubler:
    """Doubles its one input; notes the sizes of the batches it saw; may be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seconds: list[float | None] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)

    def run(
        self, feeds: tuple[str, ...], arrays: Sequence[np.ndarray], fetches: tuple[str, ...], seconds: float | None
    ) -> list[np.ndarray]:
        self.entered.release()
        self.free.wait(10)
        self.sizes.append(len(arrays[0]))
        self.seconds.append(seconds)
        if "scalar" in fetches:
            return [np.float32(1.0)]
        if "short" in fetches:
            return [arrays[0][:1]]
        return [2 * arrays[0] for _ in fetches]


def runner_of(doubler: Doubler, threads: int = 1, **config: Any) -> BatchingRunner:
    return BatchingRunner(doubler, BatchingConfig(**config), BatchThreads(threads), Monitoring())


def run(runner: BatchingRunner, *arrays: Any, fetch: str = "y", seconds: float | None = None) -> np.ndarray:
    return runner.run(tuple(f"x{i}" for i in range(len(arrays))), [np.asarray(a) for a in arrays], (fetch,), seconds)[0]


def held(doubler: Doubler, runner: BatchingRunner, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """Occupies the one thread, so that what comes next has to queue; returns what lets it go."""
    doubler.free.clear()
    first = pool.submit(run, runner, [0.0])
    doubler.entered.acquire()

    def let_go() -> None:
        doubler.free.set()
        first.result(10)

    return let_go


def waiting(runner: BatchingRunner, rows: int) -> None:
    queue = next(iter(runner._queues.values()))
    while sum(batch.rows for batch in queue._threads._waiting) < rows:
        time.sleep(0.001)


def test_tasks_that_wait_together_run_together() -> None:
    doubler = Doubler()
    runner = runner_of(doubler, max_batch_size=8)
    with ThreadPoolExecutor(8) as pool:
        let_go = held(doubler, runner, pool)
        tasks = [pool.submit(run, runner, [float(i), i + 0.5]) for i in range(3)]
        waiting(runner, 6)
        let_go()
        assert [task.result(10).tolist() for task in tasks] == [[2.0 * i, 2.0 * i + 1] for i in range(3)]
    assert doubler.sizes == [1, 6]


def test_a_batch_waits_its_time_for_more_and_no_longer() -> None:
    doubler = Doubler()
    runner = runner_of(doubler, max_batch_size=2, batch_timeout_micros=300_000)
    with ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        first = pool.submit(run, runner, [1.0])
        waiting(runner, 1)
        second = pool.submit(run, runner, [2.0])
        first.result(10), second.result(10)
        assert time.monotonic() - started < 0.25, "a full batch does not wait"
        started = time.monotonic()
        run(runner, [3.0])
        assert time.monotonic() - started >= 0.3
    assert doubler.sizes == [2, 1]


def test_padding_to_allowed_sizes_is_cut_off_again() -> None:
    doubler = Doubler()
    runner = runner_of(doubler, max_batch_size=8, allowed_batch_sizes=(2, 4, 8))
    assert run(runner, [1.0, 2.0, 3.0]).tolist() == [2.0, 4.0, 6.0]
    assert doubler.sizes == [4]


def test_ragged_tasks() -> None:
    doubler = Doubler()
    for padded in (False, True):
        runner = runner_of(doubler, pad_variable_length_inputs=padded)
        with ThreadPoolExecutor(3) as pool:
            let_go = held(doubler, runner, pool)
            tasks = [pool.submit(run, runner, [[1.0]]), pool.submit(run, runner, [[5.0, 6.0, 7.0]])]
            waiting(runner, 2)
            let_go()
            if padded:
                assert tasks[0].result(10).tolist() == [[2.0, 2.0, 2.0]], "with the task's own first value"
                assert tasks[1].result(10).tolist() == [[10.0, 12.0, 14.0]]
            else:
                for task in tasks:
                    with pytest.raises(ServingFault, match="Tensors with name 'x0' from different tasks have") as no:
                        task.result(10)
                    assert no.value.code == grpc.StatusCode.FAILED_PRECONDITION


def test_a_full_queue_refuses() -> None:
    doubler = Doubler()
    runner = runner_of(doubler, max_batch_size=1, max_enqueued_batches=2)
    with ThreadPoolExecutor(4) as pool:
        let_go = held(doubler, runner, pool)
        tasks = [pool.submit(run, runner, [float(i)]) for i in range(2)]
        waiting(runner, 2)
        with pytest.raises(ServingFault) as refused:
            run(runner, [9.0])
        let_go()
        assert sorted(task.result(10)[0] for task in tasks) == [0.0, 2.0]
    assert (refused.value.code, refused.value.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued and "
        "max_enqueued_batches is 2",
    )


def test_a_deadline_that_passes_in_the_queue() -> None:
    doubler = Doubler()
    runner = runner_of(doubler)
    with ThreadPoolExecutor(3) as pool:
        let_go = held(doubler, runner, pool)
        late = pool.submit(run, runner, [1.0], seconds=0.05)
        waiting(runner, 1)
        time.sleep(0.1)
        let_go()
        with pytest.raises(ServingFault, match=r"Run\(\) timeout exceeded while waiting in batching queue") as refused:
            late.result(10)
        assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        let_go = held(doubler, runner, pool)
        both = [pool.submit(run, runner, [1.0], seconds=0.05), pool.submit(run, runner, [2.0], seconds=9.0)]
        waiting(runner, 2)
        time.sleep(0.1)
        let_go()
        assert [task.result(10)[0] for task in both] == [2.0, 4.0], "one that can still make it carries the batch"
    assert doubler.seconds[-1] is not None
    assert 8 < doubler.seconds[-1] < 9


@pytest.mark.parametrize(
    ("arrays", "fetch", "code", "text"),
    [
        ([], "y", 3, "Batching Run() must have at least one input tensor"),
        ([1.0], "y", 3, "Batching Run() input tensors must have at least one dimension"),
        ([[1.0], [1.0, 2.0]], "y", 3, "Batching Run() input tensors must have equal 0th-dimension size"),
        ([[1.0] * 5], "y", 3, "Task size 5 is larger than maximum input batch size 4"),
        ([[1.0]], "scalar", 9, "Batched output tensor has 0 dimensions"),
        ([[1.0, 2.0]], "short", 9, "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
         "sizes of the input tensors"),
    ],
)  # fmt: skip
def test_what_batching_refuses(arrays: Any, fetch: str, code: int, text: str) -> None:
    with pytest.raises(ServingFault) as refused:
        run(runner_of(Doubler(), max_batch_size=4), *arrays, fetch=fetch)
    assert (refused.value.code.value[0], refused.value.message) == (code, text)


def test_large_tasks_are_split() -> None:
    doubler = Doubler()
    runner = runner_of(doubler, max_batch_size=10, enable_large_batch_splitting=True, max_execution_batch_size=4)
    assert run(runner, np.arange(10.0)).tolist() == (2 * np.arange(10.0)).tolist()
    assert doubler.sizes == [4, 4, 2]
    with pytest.raises(ServingFault, match="Task size 11 is larger than maximum input batch size 10"):
        run(runner, np.arange(11.0))


def test_a_part_fills_the_open_batch() -> None:
    """Source: tensorflow_serving/batching/batching_session.cc, SplitInputTask; TensorFlow's input_split_metadata.h."""
    doubler = Doubler()
    config = {"enable_large_batch_splitting": True, "max_execution_batch_size": 4, "allowed_batch_sizes": (3, 4, 10)}
    runner = runner_of(doubler, max_batch_size=10, **config)
    with ThreadPoolExecutor(4) as pool:
        let_go = held(doubler, runner, pool)
        small = pool.submit(run, runner, [1.0, 2.0, 3.0])
        waiting(runner, 3)
        large = pool.submit(run, runner, np.arange(10.0, 17.0))
        waiting(runner, 10)
        last = pool.submit(run, runner, [5.0, 6.0])
        waiting(runner, 12)
        let_go()
        assert small.result(10).tolist() == [2.0, 4.0, 6.0]
        assert large.result(10).tolist() == (2 * np.arange(10.0, 17.0)).tolist()
        assert last.result(10).tolist() == [10.0, 12.0]
    assert doubler.sizes == [3, 4, 4, 4], "3 + 1, 4, 2 + 2; and the first, padded"


def test_a_task_that_has_no_room_for_all_its_parts_has_none() -> None:
    """Source: TensorFlow's shared_batch_scheduler.h, ValidateBatchTaskQueueCapacity and SchedulingCapacityInternal."""
    doubler = Doubler()
    config = {"enable_large_batch_splitting": True, "max_execution_batch_size": 4, "max_enqueued_batches": 2}
    runner = runner_of(doubler, max_batch_size=10, **config)
    with ThreadPoolExecutor(4) as pool:
        let_go = held(doubler, runner, pool)
        small = pool.submit(run, runner, [1.0, 2.0, 3.0])
        waiting(runner, 3)
        with pytest.raises(ServingFault) as refused:
            run(runner, np.arange(6.0))
        fits = pool.submit(run, runner, np.arange(5.0))
        waiting(runner, 8)
        let_go()
        assert fits.result(10).tolist() == (2 * np.arange(5.0)).tolist()
        assert small.result(10).tolist() == [2.0, 4.0, 6.0]
    assert (refused.value.code, refused.value.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; task size is 6 but scheduling capacity "
        "is only 5 (num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=3, max_execution_batch_size=4)",
    )
    assert doubler.sizes == [1, 4, 4]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.integers(9, 30),
    st.sampled_from([0, 2000]),
    st.booleans(),
    st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_everyone_gets_their_own_rows(sizes: list[int], largest: int, wait: int, padded: bool, split: int) -> None:
    doubler = Doubler()
    allowed = (largest,) if padded else ()
    runner = runner_of(doubler, 2, max_batch_size=largest, batch_timeout_micros=wait, allowed_batch_sizes=allowed,
                       max_enqueued_batches=100, enable_large_batch_splitting=split > 0,
                       max_execution_batch_size=split or 1000)  # fmt: skip
    inputs = [np.random.default_rng(i).normal(size=(size, 2)) for i, size in enumerate(sizes)]
    with ThreadPoolExecutor(8) as pool:
        for sent, got in zip(inputs, pool.map(lambda values: run(runner, values), inputs), strict=True):
            np.testing.assert_array_equal(got, 2 * sent)
    assert all(size <= largest for size in doubler.sizes)
    runner._threads.stop()


def test_parameters() -> None:
    text = (
        "max_batch_size { value: 8 } batch_timeout_micros { value: 500 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    config = BatchingConfig.of(text_format.Parse(text, BatchingParameters()))
    assert (config.max_batch_size, config.rows, config.batch_timeout_micros) == (8, 8, 500)
    for wrong, told in (
        ("allowed_batch_sizes: 4 max_batch_size { value: 8 }", "last entry was 4; expected 8"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 4 max_batch_size { value: 4 }", "monotonically increasing"),
        # shared_batch_scheduler.h, AddQueueAfterRewritingOptions
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            "enable_large_batch_splitting { value: true } max_enqueued_batches { value: 0 }",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            "enable_large_batch_splitting { value: true } max_batch_size { value: 4 } max_execution_batch_size { "
            "value: 5 }",
            "input_batch_size_limit must be greater than or equal to max_execution_batch_size.",
        ),
    ):
        with pytest.raises(ServingFault, match=told):
            BatchingConfig.of(text_format.Parse(wrong, BatchingParameters()))
    none = BatchingConfig.of(text_format.Parse("max_enqueued_batches { value: 0 }", BatchingParameters()))
    assert none.max_enqueued_batches == 1, "as AddQueue rewrites it without splitting"
    with pytest.raises(ValueError, match="batching_parameters_file is set without setting"):
        ServerOptions(models=Path("/x"), batching_parameters_file=Path("/y"))


def test_a_batching_server(tmp_path: Path) -> None:
    export(tmp_path / "models/adder/1", 1.0)
    parameters = tmp_path / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 20000 } num_batch_threads { value: 1 }"
    )
    options = ServerOptions(
        models=tmp_path / "models", port=0, enable_batching=True, batching_parameters_file=parameters
    )
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:

        def shift(value: float) -> float:
            made = request(signature="shift", inputs={"x": [value]})
            return float(to_array(predict(channel, made).outputs["shifted"])[0])

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(shift, range(40))) == [1.0 + i for i in range(40)]
        page = server.core.monitoring.page()
        assert 'batching_session:queuing_latency_count{thread_pool_name="model_server_batch_threads"} 40' in page
        with pytest.raises(grpc.RpcError) as refused:  # its `amount` is a scalar
            predict(channel, request())
        assert refused.value.details() == "Batched output tensor has 0 dimensions"
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, request(inputs={"x": [1.0], "y": [1.0, 2.0]}))
        assert (refused.value.code(), refused.value.details()) == (
            INVALID,
            "Batching Run() input tensors must have equal 0th-dimension size",
        )


def test_per_model_parameters(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    export(tmp_path / "batched/1", 1.0)
    (tmp_path / "batched/1/batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    export(tmp_path / "wrong/1", 1.0)
    (tmp_path / "wrong/1/batching_params.pbtxt").write_text("max_batch_size: nonsense")
    options = ServerOptions(models=tmp_path, port=0, max_num_load_retries=0, enable_batching=True,
                            enable_per_model_batching_parameters=True)  # fmt: skip
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:
        three = {"x": [1.0, 2.0, 3.0]}
        assert len(to_array(predict(channel, request(signature="shift", inputs=three)).outputs["shifted"])) == 3
        with pytest.raises(grpc.RpcError, match="Task size 3 is larger than maximum input batch size 2"):
            predict(channel, request(name="batched", signature="shift", inputs=three))
        assert "Error parsing text-format" in server.core.manager.states("wrong")[1].message
