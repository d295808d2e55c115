"""The ways into a server: Unix socket, TLS and mTLS, health checks, deadlines, flags."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.certificates import certificate, pem, ssl_config
from serving.client import MimClient, ServerError, Tls
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.tensors import to_array
from tests.serving.adder import export, predict, request
from tfx_pipeline.cli import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doors")
    export(folder / "adder/1", 1.0)
    return folder


def test_unix_socket(models: Path, tmp_path: Path) -> None:
    options = ServerOptions(models=models, port=0, grpc_socket_path=f"{tmp_path}/s")
    with EmbeddedServer(options=options), grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:
        assert to_array(predict(channel, request()).outputs["amount"]) == 1.0


def test_health(models: Path) -> None:
    options = ServerOptions(models=models, port=0, enable_grpc_healthcheck_service=True)
    with EmbeddedServer(options=options) as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "PredictionService", "ModelService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with EmbeddedServer(models, port=0) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED, "off by default, as there"


@pytest.mark.parametrize("verify", [False, True])
def test_tls(models: Path, tmp_path: Path, verify: bool) -> None:
    authority, stranger = certificate("authority"), certificate("stranger")
    config = ssl_config(tmp_path / "ssl", certificate("shop.example", authority), authority, verify)
    root = pem(authority)[1]
    key, own = pem(certificate("client", authority))
    false_key, false_own = pem(certificate("client", stranger))
    options = ServerOptions(models=models, port=0, ssl_config_file=config)
    inputs = {"x": np.float32([1.0]), "y": np.float32([2.0])}
    name = "shop.example"
    good = Tls(root, key, own, name) if verify else Tls(root, server_name=name)
    bad = [None, Tls(pem(stranger)[1], key, own, name), Tls(root, key, own, "other.example")]
    bad += [Tls(root, server_name=name), Tls(root, false_key, false_own, name)] if verify else []
    with EmbeddedServer(options=options) as server:
        with MimClient(server.address, tls=good) as client:
            assert client.predict("adder", "", inputs)["sum"].tolist() == [4.0]
        for tls in bad:
            with MimClient(server.address, timeout=1, tls=tls) as client, pytest.raises(ServerError) as refused:
                client.predict("adder", "", inputs)
            assert refused.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        with MimClient(server.address, tls=good) as client:
            assert client.version("adder") == 1, "good calls go on"


def test_tls_that_is_set_up_wrongly(models: Path, tmp_path: Path) -> None:
    (tmp_path / "ssl").write_text('server_key: "a"')
    with pytest.raises(ValueError, match="must hold server_key and server_cert"):
        EmbeddedServer(options=ServerOptions(models=models, port=0, ssl_config_file=tmp_path / "ssl"))
    with pytest.raises(ValueError, match="mTLS needs both the client's key and its certificate"):
        MimClient("x:1", tls=Tls(key=b"k"))


def test_a_deadline_ends_the_run_of_the_model(models: Path) -> None:
    long = request(signature="slow", inputs={"steps": np.array(2_000_000, np.int32)})
    with EmbeddedServer(models, port=0) as server, grpc.insecure_channel(server.address) as channel:
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, long, timeout=0.3)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        predict(channel, request())
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 4, "the run ended with its deadline; nothing had to be waited for"


def test_a_call_without_a_deadline_is_answered(models: Path) -> None:
    with EmbeddedServer(models, port=0) as server, grpc.insecure_channel(server.address) as channel:
        assert to_array(predict(channel, request(), timeout=None).outputs["amount"]) == 1.0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "exactly one of --models, --model_config_file and --model_base_path; received 0"),
        (["--model_base_path", "/a", "--model_config_file", "/b"], "received 2 of them"),
        (["--models", "/does/not/exist"], "Invalid value for '--models': /does/not/exist does not exist"),
        (["--model_base_path", "/a", "--batching_parameters_file", "/b"], "without setting server_options.enable_b"),
        (["--model_base_path", "/a", "--rest_api_port", "8500"], "http_port cannot be same as grpc_port"),
        (
            ["--model_base_path", "/a", "--num_tflite_interpreters_per_pool", "2"],
            "--num_tflite_interpreters_per_pool is not supported: each pool has one interpreter here",
        ),
        (["--model_base_path", "/a", "--use_alts_credentials"], "--use_alts_credentials is not supported"),
        (["--model_base_path", "/a", "--port", "1", "--admin_port", "1"], "--admin_port must be a port of its own"),
        (
            ["--model_base_path", "/a", "--flush_filesystem_caches=false", "--rest_api_port", "8500"],
            "--flush_filesystem_caches changes nothing here",
        ),
        (
            [
                "--model_base_path",
                "/a",
                "--tensorflow_session_parallelism",
                "1",
                "--tensorflow_intra_op_parallelism",
                "1",
            ],
            "give one or the others",
        ),
        (["--model_base_path", "/a", "--admin_token_file", "/none"], "--admin_token_file must name a file"),
        (["--model_base_path", "/a", "--grpc_max_message_bytes", "0"], "must be at least 1; received 0"),
    ],
)
def test_flags_that_are_refused(flags: list[str], told: str) -> None:
    ended = CliRunner().invoke(main, ["serve", *flags])
    assert ended.exit_code == 2
    assert told in " ".join(ended.output.split())


def test_a_token_goes_over_tls_or_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    words = ["similar", "i1", "--server", "shop.example:8500", "--token_file", str(tmp_path / "token")]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 2
    assert "Add --tls" in " ".join(ended.output.split())


def test_the_commands_of_a_roll_out_send_a_token(models: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "wrong").write_text("other")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "adder" base_path: "{models}/adder" model_platform: "tensorflow" }} }}'
    )
    options = ServerOptions(model_config_file=config, port=0, admin_token_file=tmp_path / "token")
    with EmbeddedServer(options=options) as server:
        words = ["rollout", "hold", "--model", "adder", "--server", server.address, "--model_config_file", str(config)]
        ended = CliRunner().invoke(main, [*words, "--token_file", str(tmp_path / "wrong")])
        assert ended.exit_code == 1
        assert "--admin_token_file" in ended.output
        ended = CliRunner().invoke(main, [*words, "--token_file", str(tmp_path / "token")])
        assert ended.exit_code == 0, ended.output
        assert "stable" in ended.output


def test_the_error_that_is_shown_is_ours(models: Path) -> None:
    with EmbeddedServer(models, port=0) as server:
        ended = CliRunner().invoke(main, ["serve", "--models", str(models), "--port", str(server.port)])
        assert ended.exit_code == 1
        assert "choose another --port" in ended.output.lower()
