"""What the embedded server adds to the model, and what `rank` and batching save.

    mim bench rank

The server is a process of its own, kept on one of two cores: so docs/serving.md recommends for a small machine, where
a thread that wakes another on the other core waits longer than the work takes.  The client runs on whichever it likes.
Times of the bare session are taken alone, on one core too, by the same call that the server makes; the cost of
candidates through `rank` against copies of the history through `serve_examples` is one of them to the other, and
details hold the same over gRPC.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.load import PREDICT, open_loop
from benchmarks.report import publish
from benchmarks.served_ranker import (
    CORE,
    MODEL,
    THREADS,
    ctr_calls,
    examples,
    export_shop_ranker,
    on_core,
    rank_arrays,
    request,
    served,
)
from serving.channel import OPTIONS
from serving.client_core import to_bytes_array

TARGETS = {
    "p99_ms_of_500_at_20_a_second": 10.0,
    "overhead_ms_of_500": 1.0,
    "p50_ms_of_1": 1.2,
    "rank_against_examples_at_200": 5.0,
    "batching_throughput": 1.5,
}
BATCHING = (
    "max_batch_size { value: 8 } batch_timeout_micros { value: 3000 } num_batch_threads { value: 1 } "
    "max_enqueued_batches { value: 1000 }"
)


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each open loop and each concurrent run.")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.bare:
        print(json.dumps(bare_session(arguments.bare)))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    details: dict[str, Any] = {"targets": TARGETS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_shop_ranker(folder / "models" / MODEL / "1")
        batching = folder / "batching.config"
        batching.write_text(BATCHING)
        command = [
            *on_core(CORE),
            sys.executable,
            "-m",
            "benchmarks.rank",
            "--bare",
            str(folder / "models" / MODEL / "1"),
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        bare = json.loads(output.splitlines()[-1])
        details["bare_session_p50_ms"] = bare
        models = ["--models", str(folder / "models"), *THREADS]
        with served(*models, core=CORE) as (address, _), grpc.insecure_channel(address, options=OPTIONS) as channel:
            details["over_grpc"] = {
                size: closed(channel, request("rank", rank_arrays(size))) for size in (1, 10, 100, 200, 500)
            }
            details["status_call_p50_ms"] = status_call(channel)
            copies = request("serve_examples", {"examples": to_bytes_array(examples(200, one_user=True))})
            details["serve_examples_of_200"] = closed(channel, copies, calls=100)
            load = asyncio.run(open_loop(address, [request("rank", rank_arrays(500, s)) for s in range(64)], 20.0,
                                         arguments.seconds))  # fmt: skip
            details["open_loop_500_at_20_a_second"] = {**load.percentiles(), "errors": dict(load.errors)}
        rounds: dict[str, list[dict[str, float]]] = {"off": [], "on": []}
        flags = {"off": [], "on": ["--enable_batching", "--batching_parameters_file", str(batching)]}
        for _ in range(2):  # by turns, so that a drift of the machine touches both
            for kind, extra in flags.items():
                with served(*models, "--enable_model_warmup=false", *extra, core=CORE) as (address, _):
                    rounds[kind].append(concurrent(address, arguments.clients, arguments.seconds))
        details["serve_examples_by_clients"] = {"clients": arguments.clients, **rounds}
    over = details["over_grpc"]
    reached = {
        "p99_ms_of_500_at_20_a_second": details["open_loop_500_at_20_a_second"]["p99"],
        "overhead_ms_of_500": round(over[500]["p50_ms"] - bare["rank 500"], 3),
        "p50_ms_of_1": over[1]["p50_ms"],
        "rank_against_examples_at_200": round(bare["serve_examples 200"] / bare["rank 200"], 2),
        "batching_throughput": round(total(rounds, "on", "per_second") / total(rounds, "off", "per_second"), 2),
    }
    details["reached"] = reached
    details["batching_p99_ms"] = {kind: round(total(rounds, kind, "p99_ms") / 2, 2) for kind in rounds}
    less = ("p99_ms_of_500_at_20_a_second", "overhead_ms_of_500", "p50_ms_of_1")
    met = {k: reached[k] < TARGETS[k] if k in less else reached[k] >= TARGETS[k] for k in TARGETS}
    met["batching_p99_no_worse"] = details["batching_p99_ms"]["on"] <= details["batching_p99_ms"]["off"]
    details["met"] = met
    publish(
        "rank", reached["p99_ms_of_500_at_20_a_second"], "ms, p99 of 500 candidates at 20 requests/s", 10.0, details,
        met=all(met.values()),
    )  # fmt: skip


def total(rounds: dict[str, list[dict[str, float]]], kind: str, what: str) -> float:
    """Over both rounds."""
    return sum(one[what] for one in rounds[kind])


def bare_session(folder: Path) -> dict[str, float]:
    """p50 of the model alone, by signature and number of candidates, in milliseconds."""
    calls = ctr_calls(folder)
    found = {f"rank {size}": p50(functools.partial(calls["rank"], rank_arrays(size))) for size in (1, 200, 500)}
    copies = {"examples": to_bytes_array(examples(200, one_user=True))}
    return {**found, "serve_examples 200": p50(lambda: calls["serve_examples"](copies), 200)}


def p50(call: Callable[[], Any], calls: int = 1_000) -> float:
    """In milliseconds."""
    return round(float(np.median(times(call, calls))) * 1e3, 3)


def times(call: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of each call, after some that are not counted."""
    found = []
    for number in range(calls + 100):
        started = time.perf_counter()
        call()
        if number >= 100:
            found.append(time.perf_counter() - started)
    return found


def closed(channel: grpc.Channel, body: bytes, calls: int = 1_000) -> dict[str, float]:
    """One client, one call after the other."""
    call = channel.unary_unary(PREDICT)
    found = np.percentile(times(lambda: call(body, timeout=10), calls), [50, 99]) * 1e3
    return {"p50_ms": round(float(found[0]), 3), "p99_ms": round(float(found[1]), 3)}


def status_call(channel: grpc.Channel) -> float:
    """What a call costs that asks next to nothing: gRPC's own share."""
    from serving import messages

    asked = messages.GetModelStatusRequest()
    asked.model_spec.name = MODEL
    body = asked.SerializeToString()
    call = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
    return p50(lambda: call(body, timeout=10))


def concurrent(address: str, clients: int, seconds: float) -> dict[str, float]:
    """Clients that each score one tf.Example after the other, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    bodies = [request("serve_examples", {"examples": to_bytes_array(examples(1, seed))}) for seed in range(clients)]
    answers = context.Queue()
    process = context.Process(target=_clients, args=(address, bodies, seconds, answers))
    process.start()
    found: dict[str, float] = answers.get(timeout=seconds + 60)
    process.join()
    return found


def _clients(address: str, bodies: list[bytes], seconds: float, answers: Any) -> None:
    found: list[list[float]] = [[] for _ in bodies]
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.unary_unary(PREDICT)
        for body in bodies * 20:
            call(body, timeout=20)
        ends = time.perf_counter() + seconds

        def work(place: int) -> None:
            while (started := time.perf_counter()) < ends:
                call(bodies[place], timeout=20)
                found[place].append(time.perf_counter() - started)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    taken = np.concatenate([np.array(own) for own in found])
    answers.put(
        {
            "per_second": round(len(taken) / seconds, 1),
            "p50_ms": round(float(np.percentile(taken, 50)) * 1e3, 2),
            "p99_ms": round(float(np.percentile(taken, 99)) * 1e3, 2),
        }
    )


if __name__ == "__main__":
    main()
