"""Open-loop load: requests leave when they are due, whether or not those before were answered.

A closed loop waits for a slow answer before it asks again, and so leaves out of its figures the very requests that
would have had to wait ("coordinated omission").  Here each answer's time counts from when its request was due.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from hdrh.histogram import HdrHistogram

from serving.channel import OPTIONS

PREDICT = "/tensorflow.serving.PredictionService/Predict"
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_HIGHEST_US, _DIGITS = 60_000_000, 3


@dataclass
class Load:
    """What a load measured; times in microseconds in an HDR histogram."""

    sent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    late_seconds: float = 0.0  # the latest a request left after it was due
    histogram: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, _HIGHEST_US, _DIGITS))

    def add(self, seconds: float) -> None:
        """One answer's time."""
        self.histogram.record_value(max(1, min(_HIGHEST_US, round(seconds * 1e6))))

    def percentiles(self) -> dict[str, float]:
        """p50, p90, p99, p99.9 and the longest, in milliseconds."""
        found = {f"p{which:g}": self.histogram.get_value_at_percentile(which) / 1e3 for which in PERCENTILES}
        return {**found, "max": self.histogram.get_max_value() / 1e3}


async def open_loop(
    target: str,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    timeout: float = 10.0,
    warm_up: int = 20,
    check: Callable[[int, bytes], str | None] | None = None,
) -> Load:
    """Sends requests by turns at a constant rate.

    Args:
        target: `host:port`.
        requests: Serialised PredictRequests.
        rate: Requests a second.
        seconds: How long.
        timeout: Of a call, in seconds; a call that fails counts as an error and with its time.
        warm_up: Calls before, not counted.
        check: Given which request and its answer, says what is wrong with it; that counts as an error too.
    """
    load = Load()
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        call = channel.unary_unary(PREDICT)
        for number in range(warm_up):
            await call(requests[number % len(requests)], timeout=timeout)

        async def one(number: int, due: float) -> None:
            load.late_seconds = max(load.late_seconds, time.perf_counter() - due)
            which = number % len(requests)
            try:
                answer = await call(requests[which], timeout=timeout)
            except grpc.RpcError as error:
                load.add(time.perf_counter() - due)
                load.errors[f"{error.code().name}: {error.details()}"] += 1
            else:
                load.add(time.perf_counter() - due)
                if check is not None and (wrong := check(which, answer)):
                    load.errors[wrong] += 1

        started, tasks = time.perf_counter(), set()
        for number in range(round(rate * seconds)):
            due = started + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            load.sent += 1
        if tasks:
            await asyncio.wait(tasks)
        load.seconds = time.perf_counter() - started
    return load


def draw(loads: dict[str, Load], path: Path, title: str) -> None:
    """Times over percentiles, the tail spread out, a line a load."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, load in loads.items():
        points = [(1 - p / 100, load.histogram.get_value_at_percentile(p) / 1e3) for p in _grid(load.sent)]
        axes.plot(
            [1 / share for share, _ in points], [value for _, value in points], label=name, drawstyle="steps-post"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [
        p for p in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99) if p <= max(_grid(max(load.sent for load in loads.values())))
    ]
    axes.set_xticks([1 / (1 - p / 100) for p in ticks], [f"{p:g} %" for p in ticks])
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("share of the requests")
    axes.set_ylabel("answered within, ms")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _grid(sent: int) -> list[float]:
    """Percentiles that `sent` requests can give."""
    grid, share = [], 1.0
    while share * sent >= 1:
        grid.append(100 * (1 - share))
        share *= 0.9
    return grid
