"""A working day's traffic on one server: memory and threads must end as they began.

    mim bench soak

Eight hours of a shop's calls (by default one every two seconds, with a new version of the model each hour) as fast as
ten minutes hold: `rank` of 1 to 500 candidates, tf.Examples, embeddings' own vectors, metadata, status, REST, the
metrics page, calls that are refused and calls whose deadline passes, each on connections that come and go.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.load import PREDICT
from benchmarks.ports import free_port
from benchmarks.report import MEBIBYTE, publish
from benchmarks.served_ranker import MODEL, VERSION, D, examples, export_shop_ranker, rank_arrays, request, served
from serving import messages
from serving.channel import OPTIONS
from serving.client_core import to_bytes_array

GROWTH = 1.05
HOURS = 8


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="Of all of it.")
    parser.add_argument("--calls-an-hour", type=int, default=1_800, help="At least; it goes as fast as it can.")
    arguments = parser.parse_args(words)
    found = run(arguments.seconds)
    growth = max(found["memory_growth"], found["thread_growth"])
    enough = found["calls"] >= HOURS * arguments.calls_an_hour
    publish("soak", growth, "memory and threads at the end, of those after the first hour", GROWTH, found,
            met=growth <= GROWTH and enough and not found["errors"])  # fmt: skip


def run(seconds: float) -> dict[str, Any]:
    """Hours of traffic in so many seconds; what the server's process was after each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in range(2):
            export_shop_ranker(folder / "store" / str(kind), seed=kind)
        models = folder / "models" / MODEL
        models.mkdir(parents=True)
        shutil.copytree(folder / "store" / "0", models / "1")
        monitoring = folder / "monitoring.config"
        monitoring.write_text("prometheus_config { enable: true }")
        rest = free_port()
        flags = ("--rest_api_port", str(rest), "--monitoring_config_file", str(monitoring))
        with served("--models", str(folder / "models"), *flags) as (address, process):
            server, hours = psutil.Process(process), []
            traffic = Traffic(address, rest)
            for hour in range(1, HOURS + 1):
                with traffic, Watch(server) as watch:
                    time.sleep(seconds / HOURS / 2)
                    part = models / f"{hour + 1}.part"
                    shutil.copytree(folder / "store" / str(hour % 2), part)
                    part.rename(models / str(hour + 1))
                    time.sleep(seconds / HOURS / 2)
                shutil.rmtree(models / str(hour))
                hours.append(watch.medians())
        first, last = hours[0], hours[-1]
        return {
            "calls": sum(traffic.calls.values()),
            "calls_by_kind": dict(traffic.calls),
            "errors": dict(traffic.errors),
            "hours": hours,
            "memory_growth": round(last["memory_mib"] / first["memory_mib"], 4),
            "thread_growth": round(last["threads"] / first["threads"], 4),
        }


class Watch(threading.Thread):
    """Looks at a process twice a second while entered."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process, self._ended = process, threading.Event()
        self._seen: list[tuple[float, int, int]] = []

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        process = self._process
        while not self._ended.wait(0.5):
            self._seen.append((process.memory_info().rss / MEBIBYTE, process.num_threads(), process.num_fds()))

    def medians(self) -> dict[str, float]:
        """Of memory, threads and open files."""
        names = ("memory_mib", "threads", "files")
        return dict(zip(names, np.median(self._seen, axis=0).round(1).tolist(), strict=True))


class Traffic:
    """Clients that call while entered."""

    def __init__(self, address: str, rest: int, clients: int = 3) -> None:
        self._address, self._rest, self._clients = address, rest, clients
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._bodies = bodies()

    def __enter__(self) -> None:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(self._clients)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._ended.is_set():
            options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(self._address, options=options) as channel:
                for _ in range(200):  # then a new connection
                    if self._ended.is_set():
                        return
                    self._one(channel, rng)

    def _one(self, channel: grpc.Channel, rng: np.random.Generator) -> None:
        kind = list(self._bodies)[rng.integers(len(self._bodies))]
        path, choices, timeout, wanted = self._bodies[kind]
        wrong = None
        if path.startswith(("/v1", "/monitoring")):
            wrong = self._get(path)
        else:
            code = grpc.StatusCode.OK
            try:
                channel.unary_unary(path)(choices[rng.integers(len(choices))], timeout=timeout)
            except grpc.RpcError as error:
                code = error.code()
            wrong = None if code.name in wanted else f"{kind}: {code.name}"
        with self._lock:
            self.calls[kind] += 1
            if wrong:
                self.errors[wrong] += 1

    def _get(self, path: str) -> str | None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._rest, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
        return None if answer.status == 200 else f"{path}: {answer.status}"


def bodies() -> dict[str, tuple[str, list[bytes], float, tuple[str, ...]]]:
    """Kind → (path, bodies, timeout, codes it must have)."""
    from tensorflow_serving.apis import get_model_metadata_pb2

    sizes = (1, 10, 50, 100, 200, 500)
    ranks = [request("rank", rank_arrays(size, seed)) for size in sizes for seed in range(5)]
    vectors = np.random.default_rng(0).normal(size=(20, D)).astype(np.float32)
    newer = {"candidate_vectors": vectors, "encoder_version": to_bytes_array([VERSION])}
    batches = [request("serve_examples", {"examples": to_bytes_array(examples(size))}) for size in (1, 8)]
    status = messages.GetModelStatusRequest()
    status.model_spec.name = MODEL
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = MODEL
    ok = ("OK",)
    return {
        "rank": (PREDICT, ranks, 10.0, ok),
        "rank again": (PREDICT, ranks, 10.0, ok),
        "rank with vectors": (
            PREDICT, [request("rank_with_vectors", {**rank_arrays(20), **newer})], 10.0, ok,
        ),
        "examples": (PREDICT, batches, 10.0, ok),
        "unknown output": (PREDICT, [request("rank", rank_arrays(1), ("nothing",))], 10.0, ("INVALID_ARGUMENT",)),
        "too late": (PREDICT, [request("rank", rank_arrays(500))], 0.001, ("DEADLINE_EXCEEDED", "OK")),
        "status": ("/tensorflow.serving.ModelService/GetModelStatus", [status.SerializeToString()], 10.0, ok),
        "metadata": (
            "/tensorflow.serving.PredictionService/GetModelMetadata", [metadata.SerializeToString()], 10.0, ok,
        ),
        "REST status": (f"/v1/models/{MODEL}", [], 10.0, ok),
        "metrics": ("/monitoring/prometheus/metrics", [], 10.0, ok),
    }  # fmt: skip


if __name__ == "__main__":
    main()
