"""How a request is followed from the client to the server: its id, its spans, and which version a user was shown."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.async_client import AsyncMimClient
from serving.client import ExposureLog, MimClient, ServerError, request_id
from serving.client_core import user_fraction
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.exposure_log import Exposure, read_exposures
from serving.representation_center.center import RepresentationCenter, open_center
from serving.representation_center.records import Found
from tests.serving.conftest import hashes, unit_vectors, version
from tests.serving.ranker import ENCODER, config, export
from tfx_pipeline.cli import main

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def traced() -> tuple[Any, Any]:
    """A tracer provider and where its spans are; two Nones where the extra `otel` is missing."""
    try:
        import opentelemetry.instrumentation.grpc  # noqa: F401
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError:
        return None, None
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider, spans


@pytest.fixture
def provider(traced: tuple[Any, Any]) -> Any:
    return traced[0] or pytest.skip("the extra `otel` is not installed")


@pytest.fixture
def spans(provider: Any, traced: tuple[Any, Any]) -> Any:
    traced[1].clear()
    return traced[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        export(folder / f"mim_ranker/{number}")
    return folder


@pytest.fixture(scope="module")
def server(models: Path, traced: tuple[Any, Any]) -> Iterator[EmbeddedServer]:
    (models / "config").write_text(config(models, {"stable": 1, "canary": 2}))
    options = ServerOptions(
        model_config_file=models / "config",
        port=0,
        allow_version_labels_for_unavailable_models=True,
        enable_grpc_healthcheck_service=True,
    )
    with EmbeddedServer(options=options, tracer_provider=traced[0]) as running, MimClient(running.address) as client:
        client.wait_until_available("mim_ranker", version=1)
        client.wait_until_available("mim_ranker", version=2)
        yield running


@pytest.fixture
def center(tmp_path: Path) -> Iterator[RepresentationCenter]:
    with open_center(str(tmp_path / "center")) as opened:
        opened.add_version(version(ENCODER))
        opened.put(ENCODER, ["new1"], hashes(1), unit_vectors(1), np.full(1, 3))
        yield opened


Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest, server: EmbeddedServer) -> Ask:
    """Ranks for a user with a new client."""

    def blocking(user: str, items: list[str], **options: Any) -> Any:
        with MimClient(server.address, 10.0, **options) as client:
            return client.rank(user, ["i1"], items)

    async def awaited(user: str, items: list[str], **options: Any) -> Any:
        async with AsyncMimClient(server.address, 10.0, **options) as client:
            return await client.rank(user, ["i1"], items)

    return (
        blocking if request.param == "blocking" else lambda *given, **options: asyncio.run(awaited(*given, **options))
    )


# -- spans -------------------------------------------------------------------------------------------------


def test_spans_of_a_rank_reach_the_server(ask: Ask, spans: Any, provider: Any, center: RepresentationCenter) -> None:
    with request_id("r-1"):
        ranked = ask("u1", ["i1", "new1"], center=center, tracer_provider=provider)
    assert [one.item_id for one in ranked] == ["new1", "i1"]
    found = spans.get_finished_spans()
    (root,) = [span for span in found if span.parent is None]
    assert (root.name, root.kind.name) == ("mim.rank", "INTERNAL")
    assert dict(root.attributes) == {"mim.request_id": "r-1", "mim.version": 2, "mim.items": 2}
    assert {span.context.trace_id for span in found} == {root.context.trace_id}, "one trace, on both sides"
    below = sorted((span for span in found if span.parent and span.parent.span_id == root.context.span_id), key=start)
    calls = [f"/tensorflow.serving.PredictionService/{name}" for name in ("GetModelMetadata", "Predict", "Predict")]
    assert [span.name for span in below] == [*calls[:2], "mim.center", calls[2]]
    (looked,) = [span for span in below if span.name == "mim.center"]
    assert dict(looked.attributes) == {"mim.request_id": "r-1", "mim.items": 1, "mim.answered": True}
    clients = [span for span in below if span.kind.name == "CLIENT"]
    servers = sorted((span for span in found if span.kind.name == "SERVER"), key=start)
    assert [span.name for span in servers] == calls
    assert [span.parent.span_id for span in servers] == [span.context.span_id for span in clients]
    assert {span.attributes["mim.request_id"] for span in servers} == {"r-1"}


def start(span: Any) -> int:
    return int(span.start_time)


def test_a_center_that_fails_is_seen(ask: Ask, spans: Any, provider: Any) -> None:
    ask("u1", ["new1", "new2"], center=WrongCenter("the disk is away"), tracer_provider=provider)
    (looked,) = [span for span in spans.get_finished_spans() if span.name == "mim.center"]
    assert (looked.attributes["mim.items"], looked.attributes["mim.answered"]) == (2, False)


def test_spans_of_a_refusal_are_errors(ask: Ask, spans: Any, provider: Any) -> None:
    with pytest.raises(ServerError, match="NOT_FOUND"):
        ask("u1", ["i1"], versions={"mim_ranker": 9}, validate=False, tracer_provider=provider)
    by_kind = {span.kind.name: span for span in spans.get_finished_spans()}
    assert {kind: span.status.status_code.name for kind, span in by_kind.items()} == {
        "INTERNAL": "ERROR",
        "CLIENT": "ERROR",
        "SERVER": "UNSET",  # the server did what it should
    }
    assert {by_kind[kind].attributes["rpc.grpc.status_code"] for kind in ("CLIENT", "SERVER")} == {5}


def test_without_a_provider_there_are_no_spans(ask: Ask, spans: Any) -> None:
    ask("u1", ["i1"])
    assert {span.kind.name for span in spans.get_finished_spans()} == {"SERVER"}


def test_health_checks_are_no_spans(server: EmbeddedServer, spans: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert not spans.get_finished_spans()


def test_opentelemetry_is_imported_only_where_it_is_used() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from serving.client import MimClient
from serving.async_client import AsyncMimClient
from serving.embedded_server.request_ids import RequestIdInterceptor
MimClient("localhost:1").close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


def test_an_endpoint_needs_its_scheme(models: Path) -> None:
    ended = CliRunner().invoke(main, ["serve", f"--models={models}", "--otlp_endpoint=collector:4317"])
    assert ended.exit_code == 2
    assert "--otlp_endpoint is http://HOST:PORT or https://HOST:PORT; received collector:4317" in ended.output


@pytest.mark.slow
def test_mim_serve_sends_its_spans_to_a_collector(models: Path, tmp_path: Path) -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    received: list[tuple[str, str]] = []

    class Collector(service.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            for of in request.resource_spans:
                name = next(one.value.string_value for one in of.resource.attributes if one.key == "service.name")
                received.extend((name, span.name) for scope in of.scope_spans for span in scope.spans)
            return messages.ExportTraceServiceResponse()

    collector = grpc.server(futures.ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    flags = ["--models", str(models), "--port=0", f"--otlp_endpoint=http://127.0.0.1:{port}"]
    with subprocess.Popen(
        [sys.executable, "-m", "tfx_pipeline.cli", "serve", *flags], stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stderr is not None
        address = next(line for line in served.stderr if line.startswith("serving ")).split()[-1]
        with MimClient(address, 10.0) as client:
            client.rank("u1", [], ["i1"])
        served.terminate()
    collector.stop(0)
    assert ("mim-serve", "/tensorflow.serving.PredictionService/Predict") in received


# -- request ids -------------------------------------------------------------------------------------------


def test_an_error_has_the_id_that_the_server_logged(
    ask: Ask, server: EmbeddedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: Any) -> Any:
        logging.getLogger("mim").warning("looked for %s", spec.name)
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.core, "find", fail)
    with caplog.at_level(logging.WARNING, "mim"), pytest.raises(ServerError, match="INTERNAL: RuntimeError") as refused:
        ask("u1", ["i1"], validate=False)
    made = refused.value.request_id
    assert len(made) == 32
    assert str(refused.value).endswith(f"(request {made})")
    logged = [record for record in caplog.records if record.name == "mim"]
    assert [record.getMessage() for record in logged] == [
        f"looked for mim_ranker (request {made})",
        f"Predict failed (request {made})",
    ]
    assert {record.request_id for record in logged} == {made}  # type: ignore[attr-defined]


class WrongCenter:
    """Fails, or has vectors of another length."""

    def __init__(self, error: str = "") -> None:
        self.error = error

    def get(self, item_ids: list[str], version: str) -> Found:
        if self.error:
            raise RuntimeError(self.error)
        there = np.ones(len(item_ids), bool)
        return Found(version, np.ones((len(item_ids), 3), np.float32), there, there)


@pytest.mark.parametrize("error", ["", "the disk is away"])
def test_a_warning_has_the_id_once(ask: Ask, caplog: pytest.LogCaptureFixture, error: str) -> None:
    with caplog.at_level(logging.WARNING, "mim"), request_id("r-1"):
        ask("u1", ["new1"], center=WrongCenter(error), validate=False)
    warned = [record.getMessage() for record in caplog.records if "ranked without" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].count("(request r-1)") == 1


def test_which_id_is_sent(ask: Ask) -> None:
    def sent(**options: Any) -> str:
        with pytest.raises(ServerError) as refused:
            ask("u1", ["i1"], versions={"mim_ranker": 9}, **options)
        return refused.value.request_id

    assert sent() != sent(), "each question has its own"
    with request_id("from-the-web-server"):
        assert sent() == sent() == "from-the-web-server"
    assert sent(metadata=[("x-request-id", "of-this-client")]) == "of-this-client"
    assert sent(metadata=lambda: [("x-request-id", "of-a-function")]) == "of-a-function"
    for wrong in ("ü", "a\nb", "x" * 129):
        with pytest.raises(ValueError, match="a request id is 1 to 128 printable ASCII characters"), request_id(wrong):
            pass


def test_the_server_makes_an_id_where_none_came(server: EmbeddedServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        told = []
        for metadata in ((), (("x-request-id", "x" * 500),)):
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", metadata=metadata, timeout=5)
            told.append(dict(refused.value.trailing_metadata())["x-request-id"])
    assert len(told[0]) == 32
    assert told[1] == "x" * 128, "an id of any length would fill the log"


# -- exposures ---------------------------------------------------------------------------------------------

CANARY = next(user for user in map(str, range(99)) if user_fraction("mim_ranker", user) < 0.2)
CONTROL = next(user for user in map(str, range(99)) if user_fraction("mim_ranker", user) > 0.2)


def test_each_user_of_an_experiment_is_logged_with_the_version_that_answered(
    ask: Ask, tmp_path: Path, center: RepresentationCenter
) -> None:
    how: dict[str, Any] = {"labels": {"mim_ranker": "stable"}, "exposure_log": ExposureLog(tmp_path / "log/exposures")}
    with request_id("r-1"):
        ask(CANARY, ["i1", "new1"], canaries={"mim_ranker": 0.2}, center=center, **how)
    with request_id("r-2"):
        ask(CONTROL, ["i1"], canaries={"mim_ranker": 0.2}, **how)
    ask(CONTROL, ["i1"], canaries={"mim_ranker": 0.0}, **how)  # no experiment, nothing to log
    found = list(read_exposures(tmp_path / "log/exposures"))
    assert all(abs(time.time() - line.pop("time")) < 60 for line in found)
    about = {"model": "mim_ranker", "share": 0.2}
    assert found == [
        {"request_id": "r-1", "user_id": CANARY, **about, "group": "canary", "label": "canary", "version": 2},
        {"request_id": "r-2", "user_id": CONTROL, **about, "group": "control", "label": "stable", "version": 1},
    ]


def test_without_a_canary_its_users_get_what_the_others_get(models: Path, ask: Ask, tmp_path: Path) -> None:
    log = ExposureLog(tmp_path / "exposures")
    options = ServerOptions(models=models, port=0)
    with (
        EmbeddedServer(options=options) as other,
        MimClient(other.address, canaries={"mim_ranker": 0.2}, exposure_log=log) as client,
    ):
        client.rank(CANARY, [], ["i1"])
    (line,) = read_exposures(tmp_path / "exposures")
    assert (line["group"], line["label"], line["version"]) == ("canary", None, 2)


def test_the_documented_evaluation(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path / "exposures.jsonl")
    now = time.time()
    for user, group in (("007", "canary"), ("8", "control"), ("9", "control"), ("9", "control")):
        log.add(Exposure(user, "mim_ranker", 0.5, group, None, 1))
    rows = [("007", 60, 1), ("007", -60, 0), ("8", 60, 1), ("9", 60, 0), ("9", 90, 0), ("9", 99, 1), ("none", 60, 1)]
    users, after, clicked = zip(*rows, strict=True)
    table = pa.table({"user_id": users, "timestamp": [int(now) + one for one in after], "clicked": clicked})
    pq.write_table(table, tmp_path / "impressions.parquet")
    code = (PROJECT / "docs/serving.md").read_text().partition("import pandas")[2].partition("```")[0]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", "import pandas" + code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    found = dict(line.split() for line in done.stdout.splitlines() if line.startswith("c"))
    assert found == {"canary": "1.0", "control": "0.5"}, "impressions before the exposure do not count"


def test_calls_without_a_user_are_drawn_each(server: EmbeddedServer, tmp_path: Path) -> None:
    log = ExposureLog(tmp_path / "exposures")
    with MimClient(server.address, 10.0, canaries={"mim_ranker": 0.5}, exposure_log=log) as client:
        for _ in range(40):
            client.rank("", [], ["i1"])
    assert {line["group"] for line in read_exposures(tmp_path / "exposures")} == {"canary", "control"}


def test_a_log_that_is_full_costs_lines_and_no_answer(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ExposureLog(tmp_path / "exposures", max_bytes=400)
    for _ in range(4):
        assert ask(CONTROL, ["i1"], canaries={"mim_ranker": 0.2}, exposure_log=log)
    kept = len(list(read_exposures(tmp_path / "exposures")))
    assert 1 <= kept < 4
    assert log.lost == 4 - kept
    assert caplog.text.count("cannot be written: it has reached 400 bytes; move it away") == 1
    with (tmp_path / "exposures").open("ab") as file:
        file.write(b'{"cut o')
    assert len(list(read_exposures(tmp_path / "exposures"))) == kept, "one that a crash cut off is left out"
    (tmp_path / "other").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"other holds no logged exposures \(line 1\)"):
        list(read_exposures(tmp_path / "other"))
