"""Requests that are wrong in every way: each gets its code in time, the server stays as it is, good requests go on.

    mim bench malformed

Against two embedded servers, one with gRPC and REST, one with mTLS: protobuf messages with bytes changed, cut and
doubled; wrong types, shapes, counts and signatures; claims of tensors of terabytes; NaN; JSON of all kinds; wrong
certificates; connections that send a byte now and then.  Beside them a client asks for scores that it knows.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.certificates import Certificates
from benchmarks.load import PREDICT
from benchmarks.malformed_requests import SECONDS, Case, grpc_cases, rest_cases, tls_cases
from benchmarks.ports import free_port
from benchmarks.report import MEBIBYTE, publish
from benchmarks.served_ranker import MODEL, export_shop_ranker, rank_arrays, request, served
from benchmarks.slow_connections import SLOW, SlowConnections
from serving import messages
from serving.channel import OPTIONS
from serving.tensors import to_array

GROWTH = 1.05


@dataclass
class Found:
    """What came of them."""

    sent: Counter[str] = field(default_factory=Counter)
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def take(self, case: Case) -> None:
        """Sends it and looks at the answer."""
        started = time.monotonic()
        code = case.send()
        seconds = time.monotonic() - started
        self.sent[case.kind] += 1
        self.codes.setdefault(case.kind, Counter())[code] += 1
        self.slowest = max(self.slowest, seconds)
        if code not in case.codes:
            self.wrong.append(f"{case.kind}: {code}, not one of {', '.join(sorted(case.codes))}")
        if seconds > SECONDS + 0.5:
            self.wrong.append(f"{case.kind}: {seconds:.1f} s, past its deadline")


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    found = run(arguments.requests, arguments.seed)
    closed, never_greeted = found["slow_connections_that_never_greeted_closed"]
    good = not found["wrong"] and not found["good_requests"]["errors"] and closed == never_greeted
    publish("malformed", found["memory_growth"], "memory after, of before", GROWTH, found,
            met=good and found["memory_growth"] <= GROWTH)  # fmt: skip


def run(requests: int, seed: int) -> dict[str, Any]:
    """Sends so many and says what came of them."""
    rng = np.random.default_rng(seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        export_shop_ranker(folder / "models" / MODEL / "1")
        certificates = Certificates(folder)
        models = ("--models", str(folder / "models"))
        rest = free_port()
        target, process = stack.enter_context(served(*models, "--rest_api_port", str(rest)))
        closed, _ = stack.enter_context(served(*models, "--ssl_config_file", str(certificates.ssl_config)))
        channel = stack.enter_context(grpc.insecure_channel(target, options=OPTIONS))
        makers = [grpc_cases(channel, rng), rest_cases(rest, rng), tls_cases(target, closed, certificates, rng)]
        good = stack.enter_context(GoodRequests(target))
        server, found = psutil.Process(process), Found()
        for number in range(requests // 4):  # whatever is kept once it was needed
            found.take(next(makers[which_maker(number)]))
        before, threads = server.memory_info().rss, server.num_threads()
        with SlowConnections(target, rest) as slow:
            for number in range(requests // 4, requests - len(slow.sockets)):
                found.take(next(makers[which_maker(number)]))
            found.sent["slow connection"] = len(slow.sockets)
            slow.wait_for_the_handshake()
        after = server.memory_info().rss
        return {
            "requests": sum(found.sent.values()),
            "kinds": {kind: dict(codes) for kind, codes in sorted(found.codes.items())},
            "slow_connections": len(slow.sockets),
            "slow_connections_that_never_greeted_closed": [slow.closed, SLOW],
            "wrong": found.wrong,
            "slowest_s": round(found.slowest, 2),
            "memory_mib": [round(before / MEBIBYTE), round(after / MEBIBYTE)],
            "memory_growth": round(after / before, 4),
            "threads": [threads, server.num_threads()],
            "good_requests": good.summary(),
        }


def which_maker(number: int) -> int:
    """Of 20 requests, 15 go to gRPC, 4 to REST, 1 to TLS."""
    return 0 if number % 20 < 15 else 1 if number % 20 < 19 else 2


class GoodRequests:
    """Asks for scores that it knows, every 20 ms, while entered."""

    def __init__(self, target: str) -> None:
        self._target, self._ended = target, threading.Event()
        self._seconds: list[float] = []
        self._errors: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> GoodRequests:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def summary(self) -> dict[str, Any]:
        """How many, their times in milliseconds, and what went wrong."""
        times = np.percentile(self._seconds, [50, 99, 100]) * 1e3
        summary = dict(zip(("p50_ms", "p99_ms", "max_ms"), (round(float(t), 2) for t in times), strict=True))
        return {"sent": len(self._seconds), **summary, "errors": dict(self._errors)}

    def _run(self) -> None:
        body, known = request("rank", rank_arrays(10)), None
        with grpc.insecure_channel(self._target, options=OPTIONS) as channel:
            while not self._ended.wait(0.02):
                started = time.monotonic()
                try:
                    answer = channel.unary_unary(PREDICT)(body, timeout=SECONDS)
                except grpc.RpcError as error:
                    self._errors[f"{error.code().name}: {error.details()}"] += 1
                    continue
                self._seconds.append(time.monotonic() - started)
                scores = to_array(messages.PredictResponse.FromString(answer).outputs["ctr"])
                known = scores if known is None else known
                if not np.array_equal(scores, known):
                    self._errors["other scores"] += 1


if __name__ == "__main__":
    main()
