"""Calls of the administration: in threads of their own, on a port of their own where asked; the profiler service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from serving.embedded_server import profiler
from serving.embedded_server import server as server_module
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from tests.serving.adder import export, predict, request, states
from tests.serving.test_lifecycle import code_of, reload


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("admin")
    export(made / "adder/1", 1.0)
    return made


def test_inferences_that_take_all_threads_keep_no_reload_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CALLS", 2)
    monkeypatch.setattr(server_module, "_READY", 1)
    options = ServerOptions(model_name="adder", model_base_path=str(folder / "adder"), port=0)
    long = request(signature="slow", inputs={"steps": np.array(20_000_000, np.int32)})
    with (
        EmbeddedServer(options=options) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor() as pool,
    ):
        busy = [pool.submit(code_of, lambda: predict(channel, long, timeout=4)) for _ in range(4)]
        time.sleep(0.3)
        reload(channel, {"adder": folder / "adder"}, timeout=3.5)
        assert states(channel) == [(1, 30, 0)]
        assert not any(one.done() for one in busy), "all threads of inferences are taken"
        assert {one.result(10) for one in busy} == {grpc.StatusCode.DEADLINE_EXCEEDED}


def test_reloads_that_wait_keep_no_inference_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CALLS", 1)
    monkeypatch.setattr(server_module, "_READY", 1)
    options = ServerOptions(model_name="adder", model_base_path=str(folder / "adder"), port=0)
    missing = {"adder": folder / "adder", "none": folder / "none"}
    with (
        EmbeddedServer(options=options) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor() as pool,
    ):
        waits = pool.submit(code_of, lambda: reload(channel, missing, timeout=4))
        time.sleep(0.3)
        assert predict(channel, request(), timeout=3)
        assert not waits.done()


def test_an_admin_port_alone_takes_reloads(folder: Path) -> None:
    (folder / "token").write_text("s3cret")
    options = ServerOptions(
        models=folder, port=0, admin_port=0, admin_token_file=folder / "token", models_root=folder
    )  # fmt: skip
    with (
        EmbeddedServer(options=options) as server,
        grpc.insecure_channel(server.address) as channel,
        grpc.insecure_channel(f"127.0.0.1:{server.admin_port}") as admin,
    ):
        models = {"adder": folder / "adder"}
        assert code_of(lambda: reload(channel, models, token="s3cret")) == grpc.StatusCode.PERMISSION_DENIED
        assert code_of(lambda: reload(admin, models)) == grpc.StatusCode.UNAUTHENTICATED
        assert code_of(lambda: reload(admin, {"adder": Path("/tmp")}, token="s3cret")) == (
            grpc.StatusCode.INVALID_ARGUMENT
        )
        reload(admin, models, token="s3cret")
        assert states(channel) == states(admin) == [(1, 30, 0)]
        assert predict(channel, request())
        assert predict(admin, request()), "a roll-out compares versions by the port that takes its reloads"


@pytest.fixture(scope="module")
def profiled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedServer, Path]]:
    root = tmp_path_factory.mktemp("profiles")
    options = ServerOptions(models=folder, port=0, enable_profiler=True, profiler_root=root)
    with EmbeddedServer(options=options) as server:
        yield server, root


def test_a_client_of_tensorflow_takes_a_profile(profiled: tuple[EmbeddedServer, Path]) -> None:
    """Source: tensorflow_serving/model_servers/server.cc registers the service on the gRPC port."""
    server, root = profiled
    ended = threading.Event()

    def load() -> None:
        with grpc.insecure_channel(server.address) as channel:
            while not ended.is_set():
                predict(channel, request())

    thread = threading.Thread(target=load)
    thread.start()
    try:
        tf.profiler.experimental.client.trace(f"grpc://{server.address}", str(root), 300, num_tracing_attempts=1)
    finally:
        ended.set()
        thread.join()
    (file,) = (root / "plugins/profile").rglob("*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    host = next(plane for plane in space.planes if plane.name == "/host:CPU")
    names = {metadata.name for metadata in host.event_metadata.values()}
    assert any("StatefulPartitionedCall" in name for name in names), "it shows the model's own operations"


def test_profiles_that_are_refused(profiled: tuple[EmbeddedServer, Path]) -> None:
    server, root = profiled
    with grpc.insecure_channel(server.address) as channel:

        def call(name: str, **fields: Any) -> Any:
            asked = profiler.messages[f"{name}Request"](**fields)
            method = channel.unary_unary(f"/{profiler.SERVICE}/{name}", lambda message: message.SerializeToString())
            return method(asked, timeout=20)

        good: dict[str, Any] = {
            "duration_ms": 20_000,
            "repository_root": str(root),
            "session_id": "s",
            "host_name": "h",
        }
        for wrong in (
            {"repository_root": "/etc"},
            {"repository_root": "relative"},
            {"repository_root": f"{root}/.."},
            {"session_id": "../.."},
            {"host_name": "a/b"},
            {"duration_ms": 0},
            {"duration_ms": 10**9},
        ):
            assert code_of(lambda wrong=wrong: call("Profile", **{**good, **wrong})) == grpc.StatusCode.INVALID_ARGUMENT
        with ThreadPoolExecutor() as pool:
            first = pool.submit(call, "Profile", **good)
            time.sleep(0.5)
            other = {**good, "session_id": "other"}
            assert code_of(lambda: call("Profile", **other)) == grpc.StatusCode.ALREADY_EXISTS
            call("Terminate", session_id="s")
            first.result(timeout=10)
        assert (root / "s/h.xplane.pb").is_file()
        assert code_of(lambda: channel.unary_unary(f"/{profiler.SERVICE}/Monitor")(b"", timeout=5)) == (
            grpc.StatusCode.UNIMPLEMENTED
        )


def test_the_profiler_is_off_unless_asked_for(folder: Path) -> None:
    with EmbeddedServer(folder, port=0) as server, grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(f"/{profiler.SERVICE}/Profile")
        assert code_of(lambda: method(b"", timeout=5)) == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(ValueError, match="set --profiler_root"):
        ServerOptions(models=folder, models_root=folder, enable_profiler=True)
