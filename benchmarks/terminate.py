"""SIGTERM at random moments: the server is down within 5 s, and no request that it had is lost.

    mim bench terminate

By turns the signal comes while the server starts; while a version is loaded and warmed up; while requests wait for a
batch that is never full; while a reload waits for a model that never loads; while the polled configuration does;
under load over gRPC and REST.  A request counts as lost where it was sent well before the signal and was not answered,
or rightly; those after it may be refused as UNAVAILABLE, and with nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format

from benchmarks.report import publish
from serving import messages
from serving.tensors import to_array, to_proto

SECONDS = 5.0
KINDS = ("start", "load", "batch", "reload", "poll", "load over gRPC and REST")
CLIENTS, SIGNAL_MARGIN = 4, 0.1  # a request that is on its way at the signal need not have come
WARM_UPS = 200
_REFUSED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    found = run(arguments.moments, arguments.seed)
    met = found["seconds_at_most"] < SECONDS and not found["lost"] and not found["wrong_exits"]
    publish("terminate", found["seconds_at_most"], "s, from SIGTERM to the end", SECONDS, found, met=met,
            less_is_better=True)  # fmt: skip


def run(moments: int, seed: int, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Ends so many servers; what became of them and of their requests."""
    draw = random.Random(seed)
    found = [Moment(kinds[number % len(kinds)], draw) for number in range(moments)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder / "model")
        for number, moment in enumerate(found):
            moment.run(folder / str(number), folder / "model")
    outcomes = sum((moment.outcomes for moment in found), Counter[str]())
    return {
        "moments": dict(Counter(moment.kind for moment in found)),
        "seconds_at_most": round(max(moment.seconds for moment in found), 2),
        "seconds_at_most_by_kind": {
            kind: round(max(moment.seconds for moment in found if moment.kind == kind), 2) for kind in kinds
        },
        "requests": dict(outcomes),
        "lost": [message for moment in found for message in moment.lost],
        "wrong_exits": [
            {"kind": moment.kind, "status": moment.status, "log": "".join(moment.log)[-2_000:]}
            for moment in found
            if moment.status not in moment.exits
        ],
        "seed": seed,
    }


def export(folder: Path) -> None:
    """Writes a model that doubles, after some work, with warm-up requests that take a while."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    class Doubler(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
        def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            work = tf.linalg.expm(tf.eye(100) / 100)
            return {"y": 2 * x + 0 * work[0, 1]}

    module = Doubler()
    tf.saved_model.save(module, str(folder), {"serving_default": module.double})
    record = prediction_log_pb2.PredictionLog()
    record.predict_log.request.ParseFromString(double(1.0))
    (folder / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "assets.extra/tf_serving_warmup_requests")) as writer:
        for _ in range(WARM_UPS):
            writer.write(record.SerializeToString())


def double(value: float) -> bytes:
    """A serialised PredictRequest."""
    made = messages.PredictRequest()
    made.model_spec.name = "doubler"
    to_proto(np.full((1, 4), value, np.float32), made.inputs["x"])
    return bytes(made.SerializeToString())


@dataclass
class Moment:
    """One server, and the moment at which it is to end.

    Attributes:
        kind: Of KINDS.
        seconds: From the signal to the end of the process.
        status: Its exit status.
        outcomes: Of its requests.
        lost: What became of those that should have been answered.
        log: Of the server, from when it served.
    """

    kind: str
    draw: random.Random
    seconds: float = 0.0
    status: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _signalled: float = float("inf")

    @property
    def exits(self) -> tuple[int, ...]:
        """Statuses that are right; before it has taken charge of signals, the signal itself ends the process."""
        return (0, -signal.SIGTERM) if self.kind == "start" else (0,)

    def run(self, folder: Path, model: Path) -> None:
        """Starts the server, brings it to its moment, and ends it."""
        place = self._place(folder, model, 1)
        (folder / "models.config").write_text(self._config(folder, ["doubler"]))
        wait = 60_000_000 if self.kind == "batch" else 500
        (folder / "batching").write_text(
            f"max_batch_size {{ value: 64 }} batch_timeout_micros {{ value: {wait} }} "
            "max_enqueued_batches { value: 100 } num_batch_threads { value: 1 }"
        )
        assert place.is_dir()
        process = subprocess.Popen(self._command(folder), stderr=subprocess.PIPE, text=True, env=_environment())
        try:
            if self.kind == "start":
                time.sleep(self.draw.uniform(0.0, 8.0))
                self._signal(process)
                return
            addresses = self._addresses(process)
            threads = [threading.Thread(target=self._ask, args=(addresses[0], n)) for n in range(CLIENTS)]
            if self.kind == KINDS[-1]:
                threads.append(threading.Thread(target=self._ask_rest, args=(addresses[1],)))
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            self._begin(folder, model, addresses[0])
            time.sleep(self.draw.uniform(0.0, 1.5))
            self._signal(process)
            for thread in threads:
                thread.join()
        finally:
            self._ended.set()
            process.kill()
            process.wait()

    def _begin(self, folder: Path, model: Path, address: str) -> None:
        """What the signal is to meet."""
        if self.kind == "load":
            self._place(folder, model, 2)
        elif self.kind == "poll":
            (folder / "models.config").write_text(self._config(folder, ["doubler", "missing"]))
        elif self.kind == "reload":
            config = text_format.Parse(self._config(folder, ["doubler", "missing"]), messages.ModelServerConfig())

            def reload() -> None:
                with grpc.insecure_channel(address) as channel:
                    try:
                        messages.calls(channel)["HandleReloadConfigRequest"](
                            messages.ReloadConfigRequest(config=config), timeout=30
                        )
                    except grpc.RpcError as error:
                        self.outcomes[f"reload {error.code().name}"] += 1

            threading.Thread(target=reload, daemon=True).start()

    def _signal(self, process: subprocess.Popen[str]) -> None:
        self._signalled = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            self.status = process.wait(20)
        except subprocess.TimeoutExpired:
            self.status = 999  # it had to be killed
        self.seconds = time.monotonic() - self._signalled
        self._ended.set()

    def _ask(self, address: str, client: int) -> None:
        options = [("grpc.enable_retries", 0)]
        with grpc.insecure_channel(address, options=options) as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            number = 0
            while not self._ended.is_set():
                number += 1
                value, sent = float(client * 100_000 + number), time.monotonic()
                try:
                    response = messages.PredictResponse.FromString(call(double(value), timeout=30))
                except grpc.RpcError as error:
                    self._count("gRPC", sent, error.code().name, error.code() in _REFUSED, error.details())
                    if error.code() in _REFUSED:
                        return
                else:
                    right = bool((to_array(response.outputs["y"]) == 2 * value).all())
                    self._count("gRPC", sent, "OK" if right else "WRONG", right, "another request's answer")

    def _ask_rest(self, address: str) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            sent = time.monotonic()
            try:
                connection = http.client.HTTPConnection(address, timeout=30)
                connection.request("POST", "/v1/models/doubler:predict", json.dumps({"inputs": [[number] * 4]}))
                answer = json.loads(connection.getresponse().read())
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self._count("REST", sent, "REFUSED", True, repr(error))
                return
            right = answer == {"outputs": [[2.0 * number] * 4]}
            self._count("REST", sent, "OK" if right else "WRONG", right, str(answer))

    def _count(self, way: str, sent: float, code: str, may_be: bool, message: str | None) -> None:
        self.outcomes[f"{way} {code}"] += 1
        if not may_be or (code not in ("OK", "WRONG") and sent < self._signalled - SIGNAL_MARGIN):
            before = self._signalled - sent
            self.lost.append(f"{self.kind}: {way} {code} {message} (sent {before:.2f} s before the signal)")

    @staticmethod
    def _place(folder: Path, model: Path, version: int) -> Path:
        target = folder / "models/doubler" / str(version)
        part = target.with_name(f"{version}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(model), str(part)], check=True)
        return part.rename(target)

    @staticmethod
    def _config(folder: Path, names: list[str]) -> str:
        entries = (
            f'config {{ name: "{name}" base_path: "{folder}/models/{name}" model_platform: "tensorflow" }}'
            for name in names
        )
        return f"model_config_list {{ {' '.join(entries)} }}"

    def _command(self, folder: Path) -> list[str]:
        poll = "0.2" if self.kind == "poll" else "0"
        return [
            *(sys.executable, "-m", "tfx_pipeline.cli", "serve", "--port=0", "--rest_api_port=0"),
            *("--model_config_file", str(folder / "models.config"), "--file_system_poll_wait_seconds=0.1"),
            *(f"--model_config_file_poll_wait_seconds={poll}", "--enable_batching"),
            *("--batching_parameters_file", str(folder / "batching"), "--tensorflow_intra_op_parallelism=1"),
            "--enable_model_warmup=" + ("false" if self.kind == "batch" else "true"),
        ]

    def _addresses(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Of gRPC and REST, when it serves."""
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"^serving .*? on ([\d.]+:\d+), REST on ([\d.]+:\d+)", line):
                threading.Thread(target=self.log.extend, args=(process.stderr,), daemon=True).start()
                return found[1], found[2]
        raise RuntimeError(f"the server did not start: status {process.wait()}")


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


if __name__ == "__main__":
    main()
