"""Requests that are wrong in every way: each gets its code in time, the server stays as it is, good requests go on.

    mim bench malformed

Against two embedded servers, one with gRPC and REST, one with mTLS: protobuf messages with bytes changed, cut and
doubled; wrong types, shapes, counts and signatures; claims of tensors of terabytes; NaN; JSON of all kinds; wrong
certificates; connections that send a byte now and then.  Beside them a client asks for scores that it knows.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.certificates import Certificates
from benchmarks.load import PREDICT
from benchmarks.report import MEBIBYTE, publish
from benchmarks.served_ranker import MODEL, VERSION, D, examples, export_shop_ranker, rank_arrays, request, served
from serving import messages
from serving.channel import OPTIONS
from serving.conversation import texts
from serving.tensors import to_array, to_proto

SECONDS = 5.0  # a call's deadline
GROWTH = 1.05
SLOW = 40  # connections of each slow kind
HANDSHAKE_SECONDS = 20
_SERVICE = "/tensorflow.serving.PredictionService/"
# What TensorFlow Serving answers to a request that it can read, and INTERNAL to one that it cannot.
_ANSWERS = frozenset({"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "UNIMPLEMENTED", "INTERNAL"})
_INVALID, _REFUSED = frozenset({"INVALID_ARGUMENT"}), frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Case:
    """A wrong request.

    Attributes:
        kind: What is wrong.
        send: Sends it and gives the code of the answer.
        codes: That it may have.
    """

    kind: str
    send: Callable[[], str]
    codes: frozenset[str]


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
        with slow_connections(target, rest) as slow:
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
            "good_requests": good.told(),
        }


def which_maker(number: int) -> int:
    """Of 20 requests, 15 go to gRPC, 4 to REST, 1 to TLS."""
    return 0 if number % 20 < 15 else 1 if number % 20 < 19 else 2


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- gRPC ------------------------------------------------------------------------------------------------------


def grpc_cases(channel: grpc.Channel, rng: np.random.Generator) -> Iterator[Case]:
    """By turns a message with changed bytes, and one that is wrong on purpose."""
    bodies = seeds()
    wrong = on_purpose(channel, rng)
    while True:
        method, body = bodies[rng.integers(len(bodies))]
        yield Case(f"bytes changed: {method}", sending(channel, _SERVICE + method, mutated(body, rng)), _ANSWERS)
        yield next(wrong)


def sending(channel: grpc.Channel, path: str, body: bytes) -> Callable[[], str]:
    """Sends these bytes."""

    def send() -> str:
        try:
            channel.unary_unary(path)(body, timeout=SECONDS)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    return send


def seeds() -> list[tuple[str, bytes]]:
    """Good requests of every method."""
    from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, inference_pb2, regression_pb2

    made = [("Predict", request("rank", rank_arrays(size))) for size in (1, 20)]
    made.append(("Predict", request("serve_examples", {"examples": texts(examples(3))})))
    for method, kind in (("Classify", classification_pb2), ("Regress", regression_pb2)):
        one = getattr(kind, "ClassificationRequest" if method == "Classify" else "RegressionRequest")()
        one.model_spec.name = MODEL
        for example in examples(2):
            one.input.example_list.examples.add().ParseFromString(example)
        made.append((method, one.SerializeToString()))
    several = inference_pb2.MultiInferenceRequest()
    task = several.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = MODEL
    several.input.example_list.examples.add().ParseFromString(examples(1)[0])
    made.append(("MultiInference", several.SerializeToString()))
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = MODEL
    made.append(("GetModelMetadata", metadata.SerializeToString()))
    return made


def mutated(body: bytes, rng: np.random.Generator) -> bytes:
    """A bit, a few bytes changed; a piece cut out, or doubled."""
    made = bytearray(body)
    for _ in range(rng.integers(1, 3)):
        start = int(rng.integers(len(made) + 1))
        end = min(len(made), start + int(rng.integers(1, 16)))
        match rng.integers(10):
            case 0:
                made[start:end] = rng.bytes(end - start)
            case 1:
                del made[start:end]
            case 2:
                made[start:start] = made[start:end]
            case 3:
                made[start:start] = rng.bytes(int(rng.integers(1, 20)))
            case _ if made:
                made[int(rng.integers(len(made)))] ^= 1 << int(rng.integers(8))
    return bytes(made)


def on_purpose(channel: grpc.Channel, rng: np.random.Generator) -> Iterator[Case]:
    """Requests of which one thing is wrong, and known to be."""

    def case(kind: str, made: Any, codes: frozenset[str] = _INVALID, method: str = "Predict") -> Case:
        return Case(kind, sending(channel, _SERVICE + method, made.SerializeToString()), codes)

    def good(size: int = 5) -> Any:
        return messages.PredictRequest.FromString(request("rank", rank_arrays(size, int(rng.integers(1000)))))

    while True:
        aliases = sorted(good().inputs)
        alias = aliases[rng.integers(len(aliases))]
        made = good()
        values = rng.normal(size=tuple(dim.size for dim in made.inputs[alias].tensor_shape.dim))
        to_proto(values.astype(rng.choice(["float32", "float64", "int8", "bool"])), cleared(made.inputs[alias]))
        yield case("wrong dtype", made)
        made = good()
        made.inputs[alias].dtype = int(rng.choice([0, 8, 11, 14, 20, 21, 99, 101]))
        yield case("dtype that is none", made)
        made = good()
        made.inputs[alias].tensor_shape.dim[0].size = int(rng.choice([2**62, 2**40, 2**33, -1, -(2**63)]))
        yield case("claimed size", made)
        made = good()
        made.inputs["history_ages"].tensor_shape.dim.add(size=2**31)
        made.inputs["history_ages"].tensor_shape.dim.add(size=2**31)
        yield case("claimed sizes beyond 64 bits", made)
        made = good()
        made.inputs[alias].tensor_shape.dim.add(size=1)
        yield case("rank too high", made)
        made = good()
        made.inputs["history_item_ids"].tensor_shape.dim[0].size -= 1
        del made.inputs["history_item_ids"].string_val[-1]
        yield case("history and ages of different lengths", made)
        made = good()
        del made.inputs[alias]
        yield case("input missing", made)
        made = good()
        made.inputs["more"].CopyFrom(made.inputs[alias])
        yield case("input too many", made)
        made = good()
        made.inputs["other"].CopyFrom(made.inputs[alias])
        del made.inputs[alias]
        yield case("input misnamed", made)
        made = good()
        made.output_filter.append("nothing")
        yield case("output unknown", made)
        made = good()
        made.output_filter.append("ctr")
        yield case("output twice", made)
        made = good()
        made.model_spec.signature_name = "".join(map(chr, rng.integers(32, 0x2FF, 20)))
        yield case("signature unknown", made, frozenset({"FAILED_PRECONDITION"}))
        made = good()
        made.model_spec.name = "x" * int(rng.integers(1, 4_000))
        yield case("model unknown", made, frozenset({"NOT_FOUND"}))
        made.model_spec.name = "x" * 100_000  # gRPC sends no status so long, and says so
        yield case("model unknown, of a name of 100 kilobytes", made, frozenset({"RESOURCE_EXHAUSTED"}))
        made = good()
        made.model_spec.version.value = int(rng.integers(2, 2**62))
        yield case("version unknown", made, frozenset({"NOT_FOUND"}))
        made = good()
        made.model_spec.version_label = "label"
        yield case("label unknown", made)
        made = good()
        made.ClearField("model_spec")
        yield case("no model", made)
        yield Case("method unknown", sending(channel, _SERVICE + "Train", b""), frozenset({"UNIMPLEMENTED"}))
        yield Case(
            "no message at all", sending(channel, PREDICT, rng.bytes(int(rng.integers(1, 10_000)))), _ANSWERS - {"OK"}
        )
        made = good()
        del made.inputs["candidate_item_ids"]
        to_proto(texts(["x" * 10_000] * 1_000), made.inputs["candidate_item_ids"])
        yield case("ids of ten kilobytes", made, frozenset({"OK"}))
        yield case("20,000 candidates", good(20_000), frozenset({"OK", "DEADLINE_EXCEEDED"}))
        made = good()
        to_proto(texts(["i000001"] * 20_000), cleared(made.inputs["history_item_ids"]))
        to_proto(np.arange(20_000), cleared(made.inputs["history_ages"]))
        yield case("history of 20,000", made, frozenset({"OK"}))
        vectors = rng.normal(size=(5, D)).astype(np.float32)
        vectors[rng.random(vectors.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf, 1e38, -0.0])
        arrays = {**rank_arrays(5), "candidate_vectors": vectors, "encoder_version": texts([VERSION])}
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors of NaN and infinity", sent, frozenset({"OK"}))
        arrays["candidate_vectors"] = vectors[:, : int(rng.choice([0, 1, D - 1]))]
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors too short", sent)
        arrays["candidate_vectors"] = vectors[: int(rng.choice([0, 1, 4]))]
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors too few", sent)
        broken = texts([rng.bytes(int(rng.integers(1, 200))) for _ in range(3)])
        sent = messages.PredictRequest.FromString(request("serve_examples", {"examples": broken}))
        yield case("examples that are none", sent)


def cleared(proto: Any) -> Any:
    """The same message, empty."""
    proto.Clear()
    return proto


# -- REST ------------------------------------------------------------------------------------------------------


def rest_cases(port: int, rng: np.random.Generator) -> Iterator[Case]:
    """Paths, methods, headers and bodies."""
    path = f"/v1/models/{MODEL}:predict"
    row = {name: values.tolist() for name, values in rank_arrays(2).items() if values.dtype != object}
    row |= {name: [v.decode() for v in values] for name, values in rank_arrays(2).items() if values.dtype == object}
    good = json.dumps({"signature_name": "rank", "inputs": row}).encode()
    bad = frozenset({"400"})
    while True:
        changed = mutated(good, rng)
        yield Case("JSON with bytes changed", posting(port, path, changed), frozenset({"200", "400", "500"}))
        yield Case("JSON nested deeply", posting(port, path, b'{"inputs":' + b"[" * 100_000), bad)
        yield Case("JSON of nothing", posting(port, path, b""), bad)
        yield Case("JSON of other things", posting(port, path, rng.choice([b"1", b"[]", b'"a"', b"null", b"{}"])), bad)
        yield Case("REST: model unknown", posting(port, "/v1/models/other:predict", good), frozenset({"404"}))
        yield Case("REST: signature unknown", posting(port, path, b'{"signature_name":"a","instances":[1]}'), bad)
        odd = "".join(map(chr, rng.integers(33, 127, 30))).replace("#", "").replace("?", "")
        yield Case("REST: path", posting(port, f"/v1/{odd}", good), bad)
        yield Case("REST: path outside", posting(port, f"/{odd}", good), frozenset({"404"}))
        yield Case("REST: method", posting(port, path, good, "DELETE"), bad)
        huge = json.dumps({"signature_name": "rank", "inputs": {**row, "history_ages": [10**400]}}).encode()
        yield Case("REST: number out of range", posting(port, path, huge), bad)
        ragged = json.dumps({"signature_name": "rank", "inputs": {**row, "history_ages": [[1, 2], [3]]}}).encode()
        yield Case("REST: ragged", posting(port, path, ragged), bad)
        yield Case("REST: no HTTP", raw(port, rng.bytes(200) + b"\r\n\r\n"), frozenset({"400", "closed"}))
        length = b"POST " + path.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"
        yield Case("REST: claimed length", raw(port, length), frozenset({"413", "400", "closed"}))


def posting(port: int, path: str, body: bytes, method: str = "POST") -> Callable[[], str]:
    """Sends a body; gives the status."""

    def send() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return str(connection.getresponse().status)
        finally:
            connection.close()

    return send


def raw(port: int, data: bytes) -> Callable[[], str]:
    """Sends bytes; gives the status, or that the server closed."""

    def send() -> str:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
        return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/") else "closed"

    return send


# -- TLS and slowness ------------------------------------------------------------------------------------------


def tls_cases(plain: str, closed: str, certificates: Certificates, rng: np.random.Generator) -> Iterator[Case]:
    """Callers that the mTLS server must not let in, and TLS to the server that has none."""
    body = request("rank", rank_arrays(1))
    ways: list[tuple[str, str, grpc.ChannelCredentials | None]] = [
        ("TLS: none", closed, None),
        ("TLS: no certificate of the client", closed, certificates.channel(client=None)),
        ("TLS: a stranger's certificate", closed, certificates.channel(client="stranger")),
        ("TLS: the server unknown", closed, certificates.channel(root="stranger")),
        ("TLS: to a plain port", plain, certificates.channel()),
    ]

    def send(target: str, credentials: grpc.ChannelCredentials | None) -> str:
        options = [*OPTIONS, ("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        make = grpc.insecure_channel if credentials is None else grpc.secure_channel
        words = (target,) if credentials is None else (target, credentials)
        with make(*words, options=options) as channel:
            try:
                channel.unary_unary(PREDICT)(body, timeout=2)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    while True:
        for kind, target, credentials in ways:
            yield Case(kind, lambda target=target, credentials=credentials: send(target, credentials), _REFUSED)  # type: ignore[misc]
        yield Case("TLS: as it should be", lambda: send(closed, certificates.channel()), frozenset({"OK"}))
        junk = b"\x16\x03\x01" + rng.bytes(100)
        yield Case("TLS: no handshake", raw(int(closed.rpartition(":")[2]), junk), frozenset({"closed"}))


LONG = bytes([0, 0, 0, 3, 0]) + b"x" * 800  # a message of 768 bytes, behind its length


class Slow:
    """Connections on which a byte comes now and then."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

    def __init__(self, target: str, rest: int) -> None:
        port = int(target.rpartition(":")[2])
        length = b"POST /v1/models/a:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
        started = self.PREFACE + headers_frame(target)
        kinds = [
            (port, b"", self.PREFACE),
            (port, started, LONG),
            (rest, b"", length),
            (rest, length, b"[" * 900),
        ]
        self.sockets: list[tuple[socket.socket, bytes]] = []
        for where, first, rest_of_it in kinds:
            for _ in range(SLOW):
                connection = socket.create_connection(("127.0.0.1", where), 5)
                connection.sendall(first)
                self.sockets.append((connection, rest_of_it))
        self.closed = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def wait_for_the_handshake(self) -> None:
        """Until the server has closed those that did not greet it in time (ten seconds)."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        while self.closed < SLOW and time.monotonic() < deadline:
            time.sleep(0.1)

    def stop(self) -> None:
        """Closes them."""
        self._ended.set()
        self._thread.join()
        for connection, _ in self.sockets:
            connection.close()

    def _drip(self) -> None:
        place, open_ones = 0, list(self.sockets)
        while not self._ended.wait(1.0):
            for one in list(open_ones):
                connection, data = one
                try:
                    connection.sendall(data[place : place + 1])
                except OSError:
                    open_ones.remove(one)
                    self.closed += 1
            place += 1


def headers_frame(target: str) -> bytes:
    """HTTP/2 HEADERS of a Predict call, none of it compressed, and the start of its DATA (RFC 9113, RFC 7541)."""

    def literal(name: bytes, value: bytes) -> bytes:
        return bytes([0, len(name)]) + name + bytes([len(value)]) + value

    fields = {b":method": b"POST", b":scheme": b"http", b":path": PREDICT.encode(), b":authority": target.encode()}
    fields |= {b"te": b"trailers", b"content-type": b"application/grpc"}
    block = b"".join(literal(name, value) for name, value in fields.items())
    head = len(block).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + block
    return head + (1_000).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1])


@contextlib.contextmanager
def slow_connections(target: str, rest: int) -> Iterator[Slow]:
    """Open while entered."""
    slow = Slow(target, rest)
    try:
        yield slow
    finally:
        slow.stop()


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

    def told(self) -> dict[str, Any]:
        """How many, their times in milliseconds, and what went wrong."""
        times = np.percentile(self._seconds, [50, 99, 100]) * 1e3
        told = dict(zip(("p50_ms", "p99_ms", "max_ms"), (round(float(t), 2) for t in times), strict=True))
        return {"sent": len(self._seconds), **told, "errors": dict(self._errors)}

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
