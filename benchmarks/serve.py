"""Load on a server, at constant rates, with times from when each request was due.

    mim bench serve                                     its own embedded server and ranker, 20 to 200 requests/s
    mim bench serve --server HOST:PORT --requests FILE  a running server, with requests that a client logged

Writes percentiles as JSON and a plot beside it: `serve`, or `serve_running` of a server that was running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load import Load, draw, open_loop
from benchmarks.report import RESULTS, publish
from benchmarks.served_ranker import CORE, MODEL, THREADS, export_shop_ranker, rank_arrays, request, served

TARGET_MS = 10.0


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="Where a server runs; an embedded one is started without.")
    parser.add_argument("--requests", type=Path, help="A file that RequestLog wrote.")
    parser.add_argument("--candidates", type=int, default=500, help="Of a generated request.")
    parser.add_argument("--rates", type=float, nargs="+", default=[20.0, 50.0, 100.0, 200.0])
    parser.add_argument("--seconds", type=float, default=30.0, help="At each rate.")
    arguments = parser.parse_args(words)
    if bool(arguments.server) != bool(arguments.requests):
        parser.error("a running server is asked with its own logged requests: give both --server and --requests")
    with contextlib.ExitStack() as stack:
        if arguments.server:
            from serving.request_log import read_requests

            target = arguments.server
            requests = [made.SerializeToString() for made in read_requests(arguments.requests)]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            export_shop_ranker(folder / "models" / MODEL / "1")
            target, _ = stack.enter_context(served("--models", str(folder / "models"), *THREADS, core=CORE))
            requests = [request("rank", rank_arrays(arguments.candidates, seed)) for seed in range(64)]
        loads: dict[str, Load] = {}
        for rate in arguments.rates:
            loads[f"{rate:g} requests/s"] = asyncio.run(open_loop(target, requests, rate, arguments.seconds))
    details: dict[str, Any] = {"candidates": None if arguments.server else arguments.candidates}
    for name, load in loads.items():
        details[name] = {
            "sent": load.sent,
            "errors": dict(load.errors),
            "answered_per_second": round(load.sent / load.seconds, 1),
            **load.percentiles(),
        }
    first = next(iter(loads.values()))
    details["sent_late_ms"] = round(max(load.late_seconds for load in loads.values()) * 1e3, 2)
    value = first.percentiles()["p99"]
    RESULTS.mkdir(exist_ok=True)
    name, title = "serve", f"{arguments.candidates} candidates, embedded server, client on the same 2 cores"
    if arguments.server:
        name, title = "serve_running", f"{arguments.requests.name} against {arguments.server}"
    draw(loads, RESULTS / f"{name}.png", title)
    publish(name, value, f"ms, p99 at {arguments.rates[0]:g} requests/s", TARGET_MS, details, less_is_better=True)


if __name__ == "__main__":
    main()
