"""The client: validation before sending, versions and labels, retries on the right codes only, asyncio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import messages
from serving.async_client import AsyncMimClient
from serving.client import MimClient, RequestLog, ServerError, SignatureError
from serving.client_core import CenterLookup, ClientCore
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.representation_center.center import CenterError, CenterUnavailable
from serving.representation_center.records import Found
from serving.request_log import read_requests
from serving.tensors import to_array, to_proto
from tests.serving.adder import eventually, export

XY = {"x": np.float32([1.0, 2.0]), "y": np.float32([0.5, 0.5])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        export(folder / f"adder/{version}", float(version))
    (folder / "config").write_text(
        f'model_config_list {{ config {{ name: "adder" base_path: "{folder}/adder" model_platform: "tensorflow" '
        'model_version_policy { all { } } version_labels { key: "stable" value: 1 } } }'
    )
    options = ServerOptions(
        model_config_file=folder / "config", port=0, allow_version_labels_for_unavailable_models=True
    )
    with EmbeddedServer(options=options) as running:
        eventually(lambda: running.core.manager.available() == {"adder": [2, 1]})
        yield running


@pytest.mark.parametrize(
    ("signature", "inputs", "told"),
    [
        (
            "no",
            XY,
            "adder version 2, signature 'no': there is none of that name; the model has echo, serving_default, sh",
        ),
        ("", {"x": XY["x"]}, "adder version 2, signature '' takes x, y; missing: y"),
        ("", {**XY, "z": XY["x"]}, "takes x, y; not taken: z"),
        ("", {**XY, "x": np.float64([1.0])}, "x must be float32; received float64"),
        ("", {**XY, "x": np.array(["a"])}, "x must be float32; received string"),
        ("", {**XY, "x": np.float32([[1.0]])}, r"x must have the shape [any]; received [1, 1]"),
        ("echo", {"text": np.array([b"a"], object), "n": np.zeros((1, 3), np.int64)}, "[any, 2]; received [1, 3]"),
    ],
)
def test_a_request_is_checked_before_it_is_sent(server: EmbeddedServer, signature: str, inputs: Any, told: str) -> None:
    with MimClient(server.address) as client:
        client.predict("adder", "", XY)
        before = server.core.monitoring.page()
        with pytest.raises(SignatureError) as refused:
            client.predict("adder", signature, inputs)
        assert told in str(refused.value)
        assert server.core.monitoring.page() == before, "nothing was sent"


def test_versions_and_labels(server: EmbeddedServer) -> None:
    def amount(**options: Any) -> float:
        with MimClient(server.address, **options) as client:
            return float(client.predict("adder", "", XY)["amount"])

    assert amount() == 2.0
    assert amount(versions={"adder": 1}) == amount(labels={"adder": "stable"}) == 1.0
    assert amount(versions={"adder": 9}, allow_fallback=True) == 2.0
    assert amount(versions={"adder": 9}, allow_fallback=True, validate=False) == 2.0
    with pytest.raises(ServerError, match="NOT_FOUND: Servable not found") as refused:
        amount(versions={"adder": 9})
    assert refused.value.code == grpc.StatusCode.NOT_FOUND
    with pytest.raises(ValueError, match="asked by version or by label; received both for adder"):
        amount(versions={"adder": 9}, labels={"adder": "stable"})


def test_status_and_waiting(server: EmbeddedServer, tmp_path: Path) -> None:
    with MimClient(server.address) as client:
        assert [(entry.version, entry.state) for entry in client.status("adder")] == [
            (2, "AVAILABLE"),
            (1, "AVAILABLE"),
        ]
        assert (client.status("none"), client.version("none"), client.version("adder")) == ([], None, 2)
        assert client.wait_until_available("adder", version=1) == {"adder": 1}
        with pytest.raises(ServerError, match="none not available on .* after 0 s"):
            client.wait_until_available("none", seconds=0.1)
    (tmp_path / "broken/1").mkdir(parents=True)
    options = ServerOptions(models=tmp_path, port=0, max_num_load_retries=0)
    with EmbeddedServer(options=options) as other, MimClient(other.address) as client:
        with pytest.raises(
            ServerError, match="broken version 1 cannot be loaded: Could not find SavedModel"
        ) as refused:
            client.wait_until_available("broken")
        assert refused.value.code == grpc.StatusCode.NOT_FOUND


def test_signatures_are_asked_again_when_another_version_answers(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    with EmbeddedServer(tmp_path, port=0, poll_seconds=0.05) as running, MimClient(running.address) as client:
        assert client.predict("adder", "", XY)["amount"] == 1.0
        assert client._core._signatures["adder", None].version == 1
        export(tmp_path / "adder/2", 2.0)
        eventually(lambda: client.predict("adder", "", XY)["amount"] == 2.0)
        client.predict("adder", "", XY)
        assert client._core._signatures["adder", None].version == 2


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Starts a server of a servicer and returns its address; the servers end with the test."""
    started = []

    def start(servicer: Any) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        started.append(server)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in started:
        server.stop(0)


class Flaky(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Fails with a code a number of times; then answers."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self.code, self.left, self.calls = code, times, 0
        self.metadata: dict[str, str] = {}
        self.remaining = 0.0

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()
        if self.left:
            self.left -= 1
            context.abort(self.code, "in vain")
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = 1
        to_proto(np.float32([1.0]), response.outputs["y"])
        return response


@pytest.mark.parametrize(
    ("code", "failures", "calls", "answered"),
    [
        (grpc.StatusCode.UNAVAILABLE, 2, 3, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1, 1, False),
        (grpc.StatusCode.INVALID_ARGUMENT, 1, 1, False),
        (grpc.StatusCode.FAILED_PRECONDITION, 1, 1, False),
        (grpc.StatusCode.NOT_FOUND, 1, 1, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1, 1, False),
        (grpc.StatusCode.INTERNAL, 1, 1, False),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_only_what_may_be_sent_again_is(
    serve: Callable[[Any], str], code: grpc.StatusCode, failures: int, calls: int, answered: bool, asynchronous: bool
) -> None:
    flaky = Flaky(code, failures)
    target = serve(flaky)
    how: dict[str, Any] = {
        "validate": False,
        "metadata": lambda: [("authorization", "Bearer t"), ("x-request-id", "7")],
    }

    async def ask() -> Any:
        async with AsyncMimClient(target, 5.0, **how) as client:
            return await client.predict("m", "", {"x": np.float32([1.0])})

    def answer() -> Any:
        if asynchronous:
            return asyncio.run(ask())
        with MimClient(target, 5.0, **how) as client:
            return client.predict("m", "", {"x": np.float32([1.0])})

    if answered:
        assert answer()["y"].tolist() == [1.0]
    else:
        with pytest.raises(ServerError, match="in vain") as refused:
            answer()
        assert refused.value.code == code
    assert flaky.calls == calls
    assert (flaky.metadata["authorization"], flaky.metadata["x-request-id"]) == ("Bearer t", "7")
    assert 0 < flaky.remaining < 5.1, "every call carries what is left of the budget"


def test_the_deadline_covers_all_calls_and_retries(serve: Callable[[Any], str]) -> None:
    flaky = Flaky(grpc.StatusCode.UNAVAILABLE, 99)
    target = serve(flaky)
    with MimClient(target, 0.015, validate=False) as client:
        started = time.monotonic()
        with pytest.raises(ServerError):
            client.predict("m", "", {"x": np.float32([1.0])})
        assert time.monotonic() - started < 0.5
        assert flaky.calls <= 2, "a retry that would come too late is not made"


def test_a_signature_that_refuses_is_asked_for_again(server: EmbeddedServer) -> None:
    with MimClient(server.address) as client:
        client.predict("adder", "", XY)
        key = ("adder", None)
        known = client._core._signatures[key]
        client._core._signatures[key] = replace(
            known, inputs={"serving_default": {"other": known.inputs["serving_default"]["x"]}}
        )
        assert client.predict("adder", "", XY)["amount"] == 2.0, "another version took over since it was asked"
        with pytest.raises(SignatureError, match="missing: y"):
            client.predict("adder", "", {"x": XY["x"]})


def test_a_user_stays_with_one_version() -> None:
    flow = ClientCore(False, {}, {"m": "stable"}, {"m": 0.2}, False, True)
    chosen = {user: flow._select("m", f"u{user}") for user in range(5_000)}
    assert chosen == {user: flow._select("m", f"u{user}") for user in range(5_000)}
    assert 0.17 < sum(selector == "canary" for selector in chosen.values()) / 5_000 < 0.23
    other = [flow._select("m") for _ in range(2_000)]
    assert 0.15 < other.count("canary") / 2_000 < 0.25, "calls without a user are drawn each"


def test_a_request_log_that_cannot_be_written_fails_no_call(server: EmbeddedServer) -> None:
    log = RequestLog("/dev/full", share=1.0)
    with MimClient(server.address, request_log=log) as client:
        assert client.predict("adder", "", XY)["amount"] == 2.0
        assert client.predict("adder", "", XY)["amount"] == 2.0
    assert log.lost == 2


class SilentCenter:
    """Answers after two seconds."""

    def get(self, item_ids: list[str], version: str) -> Any:
        time.sleep(2)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_silent_center_costs_vectors_and_no_answer(asynchronous: bool) -> None:
    lookup = CenterLookup(["a"], "e")

    def flow() -> Any:
        found = yield lookup
        return "ranked without" if found is None else found

    center: Any = SilentCenter()

    async def ask() -> Any:
        async with AsyncMimClient("127.0.0.1:1", 0.3, center) as client:
            return await client._run(flow())

    started = time.monotonic()
    if asynchronous:
        assert asyncio.run(ask()) == "ranked without"
    else:
        client = MimClient("127.0.0.1:1", 0.3, center)
        assert client._run(flow()) == "ranked without"
        assert time.monotonic() - started < 1.5, "the Center would have answered after two"
        reads = [client._center.start(lookup) for _ in range(12)] if client._center else []
        assert reads[-1] is None, "reads that wait are bounded"
        client.close()


def test_what_a_server_says_is_told_from_a_server_that_is_not_there(serve: Callable[[Any], str]) -> None:
    flaky = Flaky(grpc.StatusCode.UNAVAILABLE, 99)
    target = serve(flaky)
    for address, message in ((target, "UNAVAILABLE: in vain"), ("127.0.0.1:1", "no server answers at 127.0.0.1:1")):
        with MimClient(address, 1.0, validate=False) as client, pytest.raises(ServerError, match=message):
            client.predict("m", "", {"x": np.float32([1.0])})


def test_asyncio_asks_the_same(server: EmbeddedServer) -> None:
    async def many() -> list[Any]:
        async with AsyncMimClient(server.address, labels={"adder": "stable"}) as client:
            assert (await client.status("adder"))[0].version == 2
            with pytest.raises(SignatureError, match="missing: y"):
                await client.predict("adder", "", {"x": XY["x"]})
            asked = (client.predict("adder", "shift", {"x": np.float32([i])}) for i in range(20))
            return [answer["shifted"].tolist() for answer in await asyncio.gather(*asked)]

    assert asyncio.run(many()) == [[1.0 + i] for i in range(20)]


def test_requests_are_logged_for_a_replay(server: EmbeddedServer, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log/requests", share=1.0)
    with MimClient(server.address, request_log=log) as client:
        for _ in range(3):
            client.predict("adder", "", XY)
        with pytest.raises(SignatureError):
            client.predict("adder", "no", XY)
    log.close()
    kept = list(read_requests(tmp_path / "log/requests"))
    assert [request.model_spec.name for request in kept] == ["adder"] * 3
    whole = (tmp_path / "log/requests").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-3])
    assert len(list(read_requests(tmp_path / "cut"))) == 2, "one that a crash cut off is left out"
    (tmp_path / "other").write_bytes(b"\x05" + b"\xff" * 60)
    with pytest.raises(ValueError, match="holds no logged requests"):
        list(read_requests(tmp_path / "other"))
    with pytest.raises(ValueError, match="share must be from 0 to 1; received 2"):
        RequestLog(tmp_path / "x", share=2)


class Slow(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Says UNAVAILABLE after 0.3 seconds, and keeps how long each call might have taken."""

    def __init__(self) -> None:
        self.remaining: list[float] = []

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.remaining.append(context.time_remaining())
        time.sleep(0.3)
        context.abort(grpc.StatusCode.UNAVAILABLE, "in vain")


def test_retries_share_one_budget(serve: Callable[[Any], str]) -> None:
    slow = Slow()
    target = serve(slow)
    with MimClient(target, 0.8, validate=False) as client:
        started = time.monotonic()
        with pytest.raises(ServerError):
            client.predict("m", "", {"x": np.float32([1.0])})
        assert time.monotonic() - started < 1.5, "four calls of 0.8 seconds each would take longer"
    assert len(slow.remaining) >= 2
    assert slow.remaining[1] < slow.remaining[0] - 0.2


RANKED = {"ctr": np.float32([0.1, 0.2]), "has_vector": np.array([True, False]), "encoder_version": np.array([b"e1"])}


def test_a_new_ranker_between_the_two_calls_is_asked_once_more() -> None:
    flow = ClientCore(True, {}, {}, {}, False, False)
    asked: list[str] = []

    def respond(step: Any) -> Any:
        if isinstance(step, CenterLookup):
            asked.append(f"lookup {step.encoder_version}")
            mask = np.array([True])
            return Found(step.encoder_version, np.ones((1, 2), np.float32), mask, mask)
        if step.method == "GetModelMetadata":
            return messages.GetModelMetadataResponse()
        asked.append(step.request.model_spec.signature_name)
        response = messages.PredictResponse()
        response.model_spec.version.value = 1 if len(asked) < 4 else 2
        version = b"e1" if len(asked) < 4 else b"e2"
        outputs = RANKED | {"encoder_version": np.array([version])}
        if step.request.model_spec.signature_name == "rank_with_vectors":
            if len(asked) == 3:
                raise ServerError("candidate_vectors must be of encoder e2", grpc.StatusCode.INVALID_ARGUMENT)
            outputs = {"ctr": np.float32([0.9])}
        for name, values in outputs.items():
            to_proto(values, response.outputs[name])
        return response

    scores = follow(flow.rank("u", ["h"], ["a", "b"]), respond)
    assert asked == ["rank", "lookup e1", "rank_with_vectors", "rank", "lookup e2", "rank_with_vectors"]
    assert [(one.item_id, round(one.score, 3)) for one in scores] == [("b", 0.9), ("a", 0.1)]


def follow(flow: Any, respond: Any) -> Any:
    """What a flow returns, when its calls are answered by `respond`."""
    take = functools.partial(next, flow)
    while True:
        try:
            step = take()
        except StopIteration as end:
            return end.value
        try:
            take = functools.partial(flow.send, respond(step))
        except ServerError as error:
            take = functools.partial(flow.throw, error)


@pytest.mark.parametrize("change", ["another version", "too late", "vectors of another width"])
def test_the_second_call_costs_vectors_and_never_the_answer(change: str) -> None:
    flow = ClientCore(True, {}, {}, {}, False, False)
    asked: list[str] = []

    def respond(step: Any) -> Any:
        if isinstance(step, CenterLookup):
            mask = np.array([True])
            return Found(step.encoder_version, np.ones((1, 2), np.float32), mask, mask)
        if step.method == "GetModelMetadata":
            return messages.GetModelMetadataResponse()
        asked.append(step.request.model_spec.signature_name)
        response = messages.PredictResponse()
        outputs: dict[str, Any] = dict(RANKED)
        response.model_spec.version.value = 1
        if asked[-1] == "rank_with_vectors":
            if change == "too late":
                raise ServerError("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED)
            if change == "vectors of another width":
                raise ServerError("cannot reshape", grpc.StatusCode.INVALID_ARGUMENT)
            outputs = {"ctr": np.float32([0.9])}
        if change == "another version" and len(asked) > 1:
            response.model_spec.version.value = 2
            if asked[-1] == "rank":
                outputs["ctr"] = np.float32([0.3, 0.4])
        for name, values in outputs.items():
            to_proto(values, response.outputs[name])
        return response

    scores = follow(flow.rank("u", ["h"], ["a", "b"]), respond)
    found = {one.item_id: round(one.score, 3) for one in scores}
    if change == "another version":
        assert (found, scores.version) == ({"a": 0.3, "b": 0.9}, 2), "no scores of two versions in one answer"
    else:
        assert (found, scores.version) == ({"a": 0.1, "b": 0.2}, 1)


def of_attributes() -> Any:
    """A ranker that takes a brand, a price and tags of its candidates."""
    known, strings = messages.SignatureDefMap(), messages.DT_STRING
    names = [
        "user_id",
        "history_item_ids",
        "candidate_item_ids",
        "candidate_brand",
        "candidate_price",
        "candidate_tags",
    ]
    types = dict.fromkeys(names, strings) | {"history_ages": messages.DT_INT64}
    further = {"candidate_vectors": messages.DT_FLOAT, "encoder_version": strings}
    for signature in ("rank_with_attributes", "rank_with_vectors"):
        for name, dtype in (types | (further if signature == "rank_with_vectors" else {})).items():
            info = known.signature_def[signature].inputs[name]
            info.dtype = dtype
            info.tensor_shape.unknown_rank = True
    response = messages.GetModelMetadataResponse()
    response.metadata["signature_def"].value = known.SerializeToString()
    response.model_spec.version.value = 1
    return response


def ask_with_attributes(
    attributes: dict[str, list], validate: bool = True, candidates: list[str] | None = None
) -> list[tuple[str, dict[str, list]]]:
    """The calls of a ranking with a Center that knows the second of two candidates: signature, inputs."""
    sent: list[tuple[str, dict[str, list]]] = []

    def respond(step: Any) -> Any:
        if isinstance(step, CenterLookup):
            mask = np.array([True])
            return Found(step.encoder_version, np.ones((1, 2), np.float32), mask, mask)
        if step.method == "GetModelMetadata":
            return of_attributes()
        inputs = {name: to_array(values).tolist() for name, values in step.request.inputs.items()}
        sent.append((step.request.model_spec.signature_name, inputs))
        response = messages.PredictResponse()
        response.model_spec.version.value = 1
        outputs = {"ctr": np.float32([0.9])} if sent[-1][0] == "rank_with_vectors" else RANKED
        for name, values in outputs.items():
            to_proto(values, response.outputs[name])
        return response

    flow = ClientCore(True, {}, {}, {}, False, validate)
    follow(flow.rank("u", ["h"], candidates or ["a", "b"], None, None, attributes), respond)
    return sent


@pytest.mark.parametrize("validate", [True, False])
def test_attributes_go_with_their_candidates(validate: bool) -> None:
    attributes = {"brand": ["x", None], "price": [float("nan"), 12.5], "tags": [[], ["a", 7]]}
    (first, sent), (second, new) = ask_with_attributes(attributes, validate)
    assert (first, second) == ("rank_with_attributes", "rank_with_vectors")
    assert sent["candidate_brand"] == [b"x", b""]
    assert sent["candidate_price"] == [b"", b"12.5"]
    assert sent["candidate_tags"] == [b"", b"a|7"]
    assert new["candidate_item_ids"] == [b"b"]
    assert (new["candidate_brand"], new["candidate_price"], new["candidate_tags"]) == ([b""], [b"12.5"], [b"a|7"])
    attributes = {"price": [np.int64(3), np.float32("nan")], "tags": [[b"red", None, "new"], {"y", "x"}]}
    (_, sent), _ = ask_with_attributes(attributes, validate)
    assert (sent["candidate_brand"], sent["candidate_price"]) == ([b"", b""], [b"3", b""])
    assert sent["candidate_tags"] == [b"red|new", b"x|y"]


def test_attributes_that_cannot_be_sent() -> None:
    with pytest.raises(SignatureError, match="candidate_price.* not taken: candidate_colour"):
        ask_with_attributes({"colour": ["red", "blue"]})
    with pytest.raises(ValueError, match="attribute brand needs a value for each of the 2 cand.* received 1"):
        ask_with_attributes({"brand": ["x"]})
    with pytest.raises(ValueError, match="received one text"):
        ask_with_attributes({"brand": "xy"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "error", [CenterUnavailable("away"), CenterError("OOM"), KeyError("a bug"), asyncio.CancelledError(), SystemExit()]
)
def test_a_center_that_fails_costs_vectors_and_no_answer(error: BaseException) -> None:
    class Failing:
        def get(self, item_ids: list[str], version: str) -> Any:
            raise error

    def flow() -> Any:
        found = yield CenterLookup(["a"], "e")
        return found

    center: Any = Failing()
    with MimClient("127.0.0.1:1", 1.0, center) as client:
        assert client._run(flow()) is None
