"""Requests that are wrong in every way: gRPC, REST and TLS; each with the codes that its answer may have."""

from __future__ import annotations

import functools
import gzip
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.certificates import Certificates
from benchmarks.load import PREDICT
from benchmarks.served_ranker import MODEL, VERSION, D, examples, rank_arrays, request
from serving import messages
from serving.channel import OPTIONS
from serving.client_core import to_bytes_array
from serving.tensors import to_proto

SECONDS = 5.0  # a call's deadline
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
    made.append(("Predict", request("serve_examples", {"examples": to_bytes_array(examples(3))})))
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
        for _ in range(16_000):
            made.inputs["history_ages"].tensor_shape.dim.add(size=2**62)
        yield case("16,000 dimensions", made)
        made = good()
        del made.inputs["history_ages"]
        made.inputs["history_ages"].dtype = messages.DT_INT64
        made.inputs["history_ages"].int64_val.append(1)
        made.inputs["history_ages"].tensor_shape.dim.add(size=2**24)
        yield case("a claim of 128 MiB for 8 bytes", made)
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
        to_proto(to_bytes_array(["x" * 10_000] * 1_000), made.inputs["candidate_item_ids"])
        yield case("ids of ten kilobytes", made, frozenset({"OK"}))
        yield case("20,000 candidates", good(20_000), frozenset({"OK", "DEADLINE_EXCEEDED"}))
        made = good()
        to_proto(to_bytes_array(["i000001"] * 20_000), cleared(made.inputs["history_item_ids"]))
        to_proto(np.arange(20_000), cleared(made.inputs["history_ages"]))
        yield case("history of 20,000", made, frozenset({"OK"}))
        vectors = rng.normal(size=(5, D)).astype(np.float32)
        vectors[rng.random(vectors.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf, 1e38, -0.0])
        arrays = {**rank_arrays(5), "candidate_vectors": vectors, "encoder_version": to_bytes_array([VERSION])}
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors of NaN and infinity", sent, frozenset({"OK"}))
        arrays["candidate_vectors"] = vectors[:, : int(rng.choice([0, 1, D - 1]))]
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors too short", sent)
        arrays["candidate_vectors"] = vectors[: int(rng.choice([0, 1, 4]))]
        sent = messages.PredictRequest.FromString(request("rank_with_vectors", arrays))
        yield case("vectors too few", sent)
        broken = to_bytes_array([rng.bytes(int(rng.integers(1, 200))) for _ in range(3)])
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
        yield Case("REST: five million arrays", posting(port, path, b'{"inputs":[' + b"[]," * 5_000_000), bad)
        bomb = gzip.compress(b'{"inputs":[' + b" " * (64 << 20))
        yield Case("REST: a body that grows", posting(port, path, bomb, encoding="gzip"), bad)
        ragged = json.dumps({"signature_name": "rank", "inputs": {**row, "history_ages": [[1, 2], [3]]}}).encode()
        yield Case("REST: ragged", posting(port, path, ragged), bad)
        yield Case("REST: no HTTP", raw(port, rng.bytes(200) + b"\r\n\r\n"), frozenset({"400", "closed"}))
        length = b"POST " + path.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"
        yield Case("REST: claimed length", raw(port, length), frozenset({"413", "400", "closed"}))


def posting(port: int, path: str, body: bytes, method: str = "POST", encoding: str = "") -> Callable[[], str]:
    """Sends a body; gives the status."""

    def send() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})
            connection.request(method, path, body, headers)
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


# -- TLS -------------------------------------------------------------------------------------------------------


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
            yield Case(kind, functools.partial(send, target, credentials), _REFUSED)
        yield Case("TLS: as it should be", functools.partial(send, closed, certificates.channel()), frozenset({"OK"}))
        junk = b"\x16\x03\x01" + rng.bytes(100)
        yield Case("TLS: no handshake", raw(int(closed.rpartition(":")[2]), junk), frozenset({"closed"}))
