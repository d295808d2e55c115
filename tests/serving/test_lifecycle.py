"""The embedded server's start, stop and reloads, with nobody waiting, with too many, and with signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from serving.embedded_server import inference
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from tests.serving.adder import eventually, export, predict, request
from tests.serving.test_rest import post


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(tmp_path / "adder/1", 1.0)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedServer]:
    options = ServerOptions(model_name="adder", model_base_path=str(folder / "adder"), port=0)
    with EmbeddedServer(options=options) as started:
        yield started


def reload(channel: grpc.Channel, models: dict[str, Path], timeout: float = 20, token: str = "") -> Any:
    asked = model_management_pb2.ReloadConfigRequest()
    for name, path in models.items():
        asked.config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    return stub.HandleReloadConfigRequest(asked, timeout=timeout, metadata=metadata)


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    code: grpc.StatusCode = refused.value.code()
    return code


def test_a_configuration_that_never_loads_keeps_no_other_out(server: EmbeddedServer, folder: Path) -> None:
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor() as pool:
        missing = pool.submit(reload, channel, {"adder": folder / "adder", "none": folder / "none"})
        time.sleep(0.5)
        reload(channel, {"adder": folder / "adder", "again": folder / "adder"}, timeout=10)
        with pytest.raises(grpc.RpcError) as replaced:
            missing.result(timeout=10)
        assert replaced.value.code() == grpc.StatusCode.CANCELLED
        assert predict(channel, request(name="again"))


def test_reloads_whose_clients_left_take_no_threads(server: EmbeddedServer, folder: Path) -> None:
    with grpc.insecure_channel(server.address) as channel:
        codes = [
            code_of(lambda number=number: reload(channel, {"adder": folder / "adder", f"n{number}": folder / "x"}, 0.1))
            for number in range(12)
        ]
        assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        started = time.monotonic()
        assert predict(channel, request())
        assert time.monotonic() - started < 1
        time.sleep(1)  # those that were left end
        reload(channel, {"adder": folder / "adder"}, timeout=5)


def test_configurations_are_confined(folder: Path) -> None:
    (folder / "token").write_text("s3cret\n")
    export(folder / "models/adder/1", 1.0)
    options = ServerOptions(
        models=folder / "models", models_root=folder / "models", admin_token_file=folder / "token", port=0
    )
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:
        inside, outside = {"adder": folder / "models/adder"}, {"adder": folder / "adder"}
        for token in ("", "other"):
            assert code_of(lambda token=token: reload(channel, inside, token=token)) == grpc.StatusCode.UNAUTHENTICATED
        reload(channel, inside, token="s3cret")
        for where in (outside["adder"], folder / "models/../adder", "gs://bucket/adder"):
            refused = {"adder": Path(where) if not str(where).startswith("gs") else where}
            assert code_of(lambda r=refused: reload(channel, r, token="s3cret")) == grpc.StatusCode.INVALID_ARGUMENT
        named = {"adder\nINFO: all is well": folder / "models/adder"}
        assert code_of(lambda: reload(channel, named, token="s3cret")) == grpc.StatusCode.INVALID_ARGUMENT
        assert predict(channel, request())


def test_health_says_not_serving_before_the_end(folder: Path) -> None:
    options = ServerOptions(
        model_name="adder", model_base_path=str(folder / "adder"), port=0, enable_grpc_healthcheck_service=True
    )
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:
        health, seen = health_pb2_grpc.HealthStub(channel), []
        watch = health.Watch(health_pb2.HealthCheckRequest(service="PredictionService"))
        seen.append(next(watch).status)
        long = predict_later(server, 1_500)
        time.sleep(0.3)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        seen.append(next(watch).status)
        assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
        assert long.result(timeout=10), "a call in flight is answered"
        stopping.join()


def predict_later(server: EmbeddedServer, steps: int) -> Any:
    slow = request(signature="slow", inputs={"steps": np.array(steps, np.int32)})

    def ask() -> Any:
        with grpc.insecure_channel(server.address) as channel:
            return predict(channel, slow, timeout=20)

    return ThreadPoolExecutor(1).submit(ask)


def test_a_polled_configuration_that_waits_holds_no_stop_up(folder: Path) -> None:
    path = folder / "models.config"
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    path.write_text(f"model_config_list {{ {entry.format('adder', folder)} }}")
    options = ServerOptions(model_config_file=path, port=0, model_config_file_poll_wait_seconds=0.05)
    with EmbeddedServer(options=options) as server:
        path.write_text(f"model_config_list {{ {entry.format('adder', folder)} {entry.format('none', folder)} }}")
        eventually(lambda: len(server.core._models()) == 2)
        started = time.monotonic()
    assert time.monotonic() - started < 2


def test_a_reload_that_waits_ends_with_the_server(server: EmbeddedServer, folder: Path) -> None:
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor() as pool:
        missing = {"adder": folder / "adder", "none": folder / "none"}
        waits = pool.submit(code_of, lambda: reload(channel, missing))
        eventually(lambda: len(server.core._models()) == 2)
        started = time.monotonic()
        server.stop()
        assert waits.result(timeout=5) == grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started < 2, "it takes none of the calls' grace"


def test_rest_calls_in_flight_are_answered(folder: Path) -> None:
    options = ServerOptions(model_name="adder", model_base_path=str(folder / "adder"), port=0, rest_api_port=0)
    with EmbeddedServer(options=options) as server, ThreadPoolExecutor() as pool:
        calls = [pool.submit(post, server, {"inputs": 300, "signature_name": "slow"}) for _ in range(6)]
        eventually(lambda: len(server._rest._server.active_channels) == 6)  # type: ignore[union-attr]
        time.sleep(0.1)
        server.stop()
        assert [call.result(timeout=5)[0] for call in calls] == [200] * 6, "two of them waited for a thread"
        with pytest.raises(OSError, match="refused"):
            post(server, {"inputs": 1, "signature_name": "slow"})


def test_a_batch_that_runs_on_holds_no_stop_up(folder: Path) -> None:
    options = ServerOptions(model_name="adder", model_base_path=str(folder / "adder"), port=0, enable_batching=True)
    with EmbeddedServer(options=options) as server:
        model = server.core.manager.get("adder")
        feeds, fetches = model.signatures["total"].feeds, model.signatures["total"].fetches
        held, entered = threading.Event(), threading.Event()

        class Slow:
            def run(self, *_: Any) -> Any:
                entered.set()
                held.wait(20)
                return [np.zeros(1, np.float32)]

        model.runner._runner = Slow()  # type: ignore[attr-defined]
        call = ThreadPoolExecutor(1).submit(model.runner.run, feeds, [np.zeros((1, 1), np.float32)], fetches, None)
        entered.wait(5)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        held.set()
        call.result(timeout=5)


def test_an_exception_of_ours_is_an_answer(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("of ours")

    monkeypatch.setattr(inference, "multi_inference", broken)
    with grpc.insecure_channel(server.address) as channel:
        from tensorflow_serving.apis import inference_pb2, prediction_service_pb2_grpc

        stub, asked = prediction_service_pb2_grpc.PredictionServiceStub(channel), inference_pb2.MultiInferenceRequest()
        asked.tasks.add().model_spec.name = "adder"
        assert code_of(lambda: stub.MultiInference(asked, timeout=5)) == grpc.StatusCode.INTERNAL
        assert predict(channel, request())
    assert 'request_count{model_name="adder",status="INTERNAL"} 1' in server.core.monitoring.page()


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tfx_pipeline.cli", "serve", "--port", "0", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def seconds_to_end(process: subprocess.Popen[str]) -> float:
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.wait(timeout=20)
    return time.monotonic() - begun


def test_sigterm_ends_a_server_that_still_waits_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "adder/1").mkdir(parents=True)  # a model that cannot be loaded, and is tried again in a minute
    with start("--model_name", "adder", "--model_base_path", str(tmp_path / "adder")) as process:
        assert process.stderr is not None
        assert "cannot be loaded" in next(line for line in process.stderr if "cannot" in line)
        assert seconds_to_end(process) < 5
