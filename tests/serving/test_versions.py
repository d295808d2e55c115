"""Versions roll over without a failed call; broken ones never evict good ones; policies, labels, reloads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc, prediction_log_pb2

from serving.embedded_server.config_files import read_model_config
from serving.embedded_server.errors import ServingFault
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.embedded_server.version_folders import numbered
from serving.tensors import to_array
from tests.serving.adder import FAILED, INVALID, eventually, export, predict, request, states

QUICK: dict[str, Any] = {"port": 0, "file_system_poll_wait_seconds": 0.05, "max_num_load_retries": 0}
MISSING = "Could not find SavedModel .pb or .pbtxt at supplied export directory path"


def server_of(models: Path, **changes: Any) -> EmbeddedServer:
    return EmbeddedServer(options=ServerOptions(models=models, **{**QUICK, **changes}))


def config_text(base: Path, policy: str = "", labels: dict[str, int] | None = None, name: str = "adder") -> str:
    told = "".join(
        f'version_labels {{ key: "{label}" value: {version} }} ' for label, version in (labels or {}).items()
    )
    model = f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {policy} {told} }}'
    return f"model_config_list {{ {model} }}"


def config_server(path: Path, text: str, **changes: Any) -> EmbeddedServer:
    path.write_text(text)
    return EmbeddedServer(options=ServerOptions(model_config_file=path, **{**QUICK, **changes}))


def reload(channel: grpc.Channel, text: str) -> Any:
    asked = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, asked.config)
    return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(asked, timeout=30)


def amount(channel: grpc.Channel, **changes: Any) -> float:
    return float(to_array(predict(channel, request(**changes)).outputs["amount"]))


def test_a_new_version_takes_over_without_a_failed_call(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    with server_of(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        assert amount(channel) == 1.0
        export(tmp_path / "adder/2", 2.0)
        seen = set()

        def both_seen() -> bool:
            seen.add(predict(channel, request()).model_spec.version.value)
            return seen == {1, 2}

        eventually(both_seen)
        eventually(lambda: states(channel) == [(2, 30, 0), (1, 50, 0)])


def test_a_broken_version_never_evicts_a_good_one_and_is_tried_again(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    retries = {"max_num_load_retries": 3, "load_retry_interval_micros": 400_000}
    with server_of(tmp_path, **retries) as server, grpc.insecure_channel(server.address) as channel:
        (tmp_path / "adder/2").mkdir()
        (tmp_path / "adder/not-a-number").mkdir()
        eventually(lambda: states(channel)[0][:2] == (2, 20))
        assert amount(channel) == 1.0
        eventually(lambda: states(channel)[0] == (2, 50, 5))
        assert server.core.manager.states("adder")[2].message.startswith(MISSING)
        assert amount(channel) == 1.0
        export(tmp_path / "adder/3", 3.0)
        eventually(lambda: amount(channel) == 3.0)
        shutil.rmtree(tmp_path / "adder/3")
        shutil.rmtree(tmp_path / "adder/2")
        eventually(lambda: amount(channel) == 1.0)


def test_a_version_half_copied_is_loaded_when_it_is_whole(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    export(tmp_path / "whole", 2.0)
    retries = {"max_num_load_retries": 50, "load_retry_interval_micros": 100_000}
    with server_of(tmp_path, **retries) as server, grpc.insecure_channel(server.address) as channel:
        (tmp_path / "adder/2").mkdir()
        shutil.copy(tmp_path / "whole/saved_model.pb", tmp_path / "adder/2")
        eventually(lambda: states(channel)[0][:2] == (2, 20))
        assert amount(channel) == 1.0
        shutil.copytree(tmp_path / "whole", tmp_path / "adder/2", dirs_exist_ok=True)
        eventually(lambda: amount(channel) == 2.0)


def test_a_call_in_flight_outlives_the_unload_of_its_version(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    with server_of(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        long = request(signature="slow", inputs={"steps": np.array(1500, np.int32)})
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(predict(channel, long, timeout=60)))
        thread.start()
        export(tmp_path / "adder/2", 2.0)
        eventually(lambda: states(channel)[0][:2] == (2, 30))
        thread.join()
        assert answers[0].model_spec.version.value == 1
        eventually(lambda: states(channel)[1] == (1, 50, 0))


def test_an_empty_folder_unloads_and_a_missing_one_does_not(tmp_path: Path) -> None:
    export(tmp_path / "m/adder/1", 1.0)
    config = config_text(tmp_path / "m/adder")
    with config_server(tmp_path / "config", config) as server, grpc.insecure_channel(server.address) as channel:
        (tmp_path / "m").rename(tmp_path / "away")
        with pytest.raises(AssertionError, match="did not come true"):
            eventually(lambda: states(channel) != [(1, 30, 0)], seconds=0.5)
        (tmp_path / "away").rename(tmp_path / "m")
        shutil.rmtree(tmp_path / "m/adder/1")
        eventually(lambda: states(channel) == [(1, 50, 0)])


def test_names_of_versions() -> None:
    names = ["1", "00000123", "7.tmp", "a", "", "99999999999999999999", "-4"]
    assert numbered(names) == {1: "1", 123: "00000123", -4: "-4"}
    assert set(numbered(["3", "03"]).values()) in ({"3"}, {"03"})


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("model_version_policy { latest { num_versions: 2 } }", [3, 2]),
        ("model_version_policy { latest { num_versions: 0 } }", [3]),
        ("model_version_policy { all { } }", [3, 2, 1]),
        ("model_version_policy { specific { versions: 1 versions: 9 } }", [1]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, served: list[int]) -> None:
    for version in (1, 2, 3):
        export(tmp_path / f"adder/{version}", float(version))
    with config_server(tmp_path / "config", config_text(tmp_path / "adder", policy)) as server:
        eventually(lambda: server.core.manager.available() == {"adder": served})
        with grpc.insecure_channel(server.address) as channel:
            assert amount(channel) == served[0], "the highest answers where no version is named"
            assert amount(channel, version=served[-1]) == served[-1]


def test_labels_are_checked_against_what_is_served_before_the_reload(tmp_path: Path) -> None:
    base, both = tmp_path / "adder", "model_version_policy { specific { versions: 1 versions: 2 } }"
    export(base / "1", 1.0)
    with config_server(tmp_path / "config", config_text(base)) as server:
        channel = grpc.insecure_channel(server.address)
        reload(channel, config_text(base, labels={"stable": 1}))
        assert amount(channel, label="stable") == 1.0
        export(base / "2", 2.0)
        eventually(lambda: amount(channel) == 2.0)
        with pytest.raises(grpc.RpcError) as refused:
            reload(channel, config_text(base, both, {"canary": 3}))
        assert (refused.value.code(), refused.value.details()) == (
            FAILED,
            "Request to assign label to version 3 of model adder, which is not currently available for inference",
        )
        reload(channel, config_text(base, both))
        eventually(lambda: server.core.manager.available() == {"adder": [2, 1]})
        reload(channel, config_text(base, both, {"stable": 1, "canary": 2}))
        assert (amount(channel, label="stable"), amount(channel, label="canary")) == (1.0, 2.0)
        with pytest.raises(grpc.RpcError) as refused:
            amount(channel, label="beta")
        assert (refused.value.code(), refused.value.details()) == (
            INVALID,
            "Unrecognized servable version label: beta",
        )
        channel.close()


def test_labels_before_the_first_configuration(tmp_path: Path) -> None:
    from serving.embedded_server.server_core import ServerCore

    (tmp_path / "config").write_text(config_text(tmp_path))
    core = ServerCore(ServerOptions(model_config_file=tmp_path / "config", **QUICK))
    with pytest.raises(ServingFault, match="Model labels does not init yet.canary") as refused:
        core.find(request(label="canary").model_spec)
    assert refused.value.code == grpc.StatusCode.UNAVAILABLE
    core.stop()


def test_new_labels_may_run_ahead_where_allowed(tmp_path: Path) -> None:
    base = tmp_path / "adder"
    export(base / "1", 1.0)
    text = config_text(base, labels={"stable": 1})
    with pytest.raises(ServingFault, match="which is not currently available for inference"):
        config_server(tmp_path / "config", text).start()
    with config_server(tmp_path / "config", text, allow_version_labels_for_unavailable_models=True) as server:
        channel = grpc.insecure_channel(server.address)
        assert amount(channel, label="stable") == 1.0
        with pytest.raises(grpc.RpcError, match="Request to assign label to version 2"):
            reload(channel, config_text(base, labels={"stable": 2}))
        channel.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
             "supported"),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } '
         'config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
         "Illegal to list model a multiple times in config list"),
        ('model_config_list { config { name: "a" base_path: "rel" model_platform: "tensorflow" } }',
         "Expected model a to have an absolute path or URI; got base_path()=rel"),
        ('model_config_list { config { name: "a" base_path: "/a" } }',
         "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
         "model name is a"),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "torch" } }',
         "Model a requests unsupported platform torch"),
        ('model_config_list { config { name: "adder" base_path: "/a" model_platform: "torch" } }',
         "Illegal to change a model's platform. For model adder platform was tensorflow and new platform requested is "
         "torch"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(adder_by_config: grpc.Channel, text: str, told: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        reload(adder_by_config, text)
    assert (refused.value.code(), refused.value.details()) == (INVALID, told)
    assert amount(adder_by_config) == 1.0


@pytest.fixture(scope="module")
def adder_by_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("configured")
    export(folder / "adder/1", 1.0)
    with (
        config_server(folder / "config", config_text(folder / "adder")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield channel


def test_reload_replaces_the_whole_list_and_waits_for_what_is_new(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    export(tmp_path / "other/1", 5.0)
    (tmp_path / "broken/1").mkdir(parents=True)
    with config_server(tmp_path / "config", config_text(tmp_path / "adder")) as server:
        channel = grpc.insecure_channel(server.address)
        assert reload(channel, config_text(tmp_path / "other", name="other")).status.error_code == 0
        assert amount(channel, name="other") == 5.0, "it was waited for"
        eventually(lambda: server.core.manager.available() == {"other": [1]})
        with pytest.raises(grpc.RpcError) as refused:
            reload(channel, config_text(tmp_path / "broken", name="broken"))
        assert refused.value.code() == grpc.StatusCode.UNKNOWN
        assert refused.value.details().startswith(
            "1 model(s) did not become available: {{{name: broken version: 1} due to error: NOT_FOUND: Could not find"
        )
        channel.close()


def test_the_configuration_file_is_read_again(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0)
    export(tmp_path / "other/1", 5.0)
    path = tmp_path / "config"
    with config_server(path, config_text(tmp_path / "adder"), model_config_file_poll_wait_seconds=0.1) as server:
        path.write_text("not a configuration {")
        with pytest.raises(AssertionError):
            eventually(lambda: server.core.manager.available() != {"adder": [1]}, seconds=0.5)
        path.write_text(config_text(tmp_path / "other", name="other"))
        eventually(lambda: server.core.manager.available() == {"other": [1]})


def test_a_server_whose_model_is_broken_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "adder/1").mkdir(parents=True)
    with pytest.raises(ServingFault, match=r"1 servable\(s\) did not become available: .*" + MISSING) as refused:
        config_server(tmp_path / "config", config_text(tmp_path / "adder")).start()
    assert refused.value.code == grpc.StatusCode.UNKNOWN
    command = [sys.executable, "-m", "tfx_pipeline.cli", "serve", "--model_base_path", str(tmp_path / "adder")]
    ended = subprocess.run(
        [*command, "--port", "0", "--max_num_load_retries", "0"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert "Failed to start server. Error: " in ended.stderr


def test_a_configuration_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("nonsense {")
    with pytest.raises(ValueError, match="Error parsing text-format tensorflow.serving.ModelServerConfig"):
        read_model_config(tmp_path / "config")
    with pytest.raises(ValueError, match="Can't open ModelServerConfig file"):
        read_model_config(tmp_path / "none")


def records(*entries: bytes) -> Any:
    def write(folder: Path) -> None:
        (folder / "assets.extra").mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / "assets.extra/tf_serving_warmup_requests")) as writer:
            for entry in entries:
                writer.write(entry)

    return write


def logged(**changes: Any) -> bytes:
    log = prediction_log_pb2.PredictLog(request=request(**changes))
    return prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString()


def broken_file(folder: Path) -> None:
    (folder / "assets.extra").mkdir(exist_ok=True)
    (folder / "assets.extra/tf_serving_warmup_requests").write_bytes(b"this is no TFRecord file at all")


@pytest.mark.parametrize(
    ("warm_up", "code", "told"),
    [
        (records(logged(signature="no")), 9, 'Serving signature key "no" not found.'),
        (records(*[logged()] * 1001), 3, "Number of warmup records exceeds the maximum (1000) at "),
        (records(b"\xff\xff\xff"), 3, "Failed to parse warmup record: "),
        (broken_file, 15, "Please verify your warmup data is in TFRecord format."),
        (records(prediction_log_pb2.PredictionLog(session_run_log={}).SerializeToString()), 12,
         "Unsupported log_type for warmup: "),
    ],
)  # fmt: skip
def test_a_failing_warm_up_fails_the_load(tmp_path: Path, warm_up: Any, code: int, told: str) -> None:
    export(tmp_path / "adder/1", 1.0, warm_up)
    with server_of(tmp_path) as server:
        (state,) = server.core.manager.states("adder").values()
        assert (state.state, state.code) == (50, code)
        assert told in state.message
    with server_of(tmp_path, enable_model_warmup=False) as server:
        assert server.core.manager.available() == {"adder": [1]}


def test_warm_up_comes_before_the_first_request(tmp_path: Path) -> None:
    export(tmp_path / "adder/1", 1.0, records(logged(), logged(outputs=["sum"])))
    with server_of(tmp_path, num_request_iterations_for_warmup=2) as server:
        page = server.core.monitoring.page()
        assert 'runtime_latency_count{model_name="adder",API="Predict",runtime="TF1"} 4' in page
        assert ":tensorflow:serving:model_warmup_latency_count{" in page
