"""A model's `logging_config`: PredictionLogs in TFRecord files; no call waits or fails for them."""

from __future__ import annotations

import contextlib
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.embedded_server import prediction_logs
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.embedded_server.warm_up import RECORDS
from serving.tensors import to_array
from tests.serving.adder import eventually, export, predict, request
from tests.serving.examples_model import export_examples
from tests.serving.test_examples import CLASSIFY, REGRESS, given, spec
from tests.serving.test_rest import post


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    export(folder / "adder/4", 1.0)
    export_examples(folder / "m/3")
    return folder


def logging_config(prefix: Path | str, rate: float = 1.0, more: str = "") -> str:
    return (
        f'logging_config {{ log_collector_config {{ filename_prefix: "{prefix}" {more} }} '
        f"sampling_config {{ sampling_rate: {rate} }} }}"
    )


def models_config(models: Path, **logged: str) -> str:
    entries = (
        f'config {{ name: "{name}" base_path: "{models}/{name}" model_platform: "tensorflow" {logged.get(name, "")} }}'
        for name in ("adder", "m")
    )
    return f"model_config_list {{ {' '.join(entries)} }}"


@contextlib.contextmanager
def serving(models: Path, folder: Path, text: str, **options: Any) -> Iterator[tuple[EmbeddedServer, grpc.Channel]]:
    (folder / "models.config").write_text(text)
    flags = ServerOptions(model_config_file=folder / "models.config", port=0, rest_api_port=0, **options)
    with EmbeddedServer(options=flags) as server, grpc.insecure_channel(server.address) as channel:
        yield server, channel


def records(folder: Path, name: str) -> list[Any]:
    """As a reader has them: whole files by `tf.data`."""
    files = sorted(str(path) for path in folder.glob(f"{name}*.tfrecord"))
    return [prediction_log_pb2.PredictionLog.FromString(one.numpy()) for one in tf.data.TFRecordDataset(files)]


def test_every_kind_of_call_is_logged_and_can_warm_a_version_up(models: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    text = models_config(
        models, adder=logging_config(logs / "a"), m=logging_config(logs / "m", more='type: "tfrecord"')
    )
    with serving(models, tmp_path, text) as (server, channel):
        predict(channel, request(outputs=["sum"]))
        with pytest.raises(grpc.RpcError):
            predict(channel, request(outputs=["none"]))
        assert post(server, {"inputs": [5.0], "signature_name": "shift"})[0] == 200
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Classify(classification_pb2.ClassificationRequest(model_spec=spec("classify"), input=given(1.0)))
        stub.Regress(regression_pb2.RegressionRequest(model_spec=spec("regress"), input=given(3.0)))
        tasks = [
            inference_pb2.InferenceTask(model_spec=spec("regress"), method_name=REGRESS),
            inference_pb2.InferenceTask(model_spec=spec("classify"), method_name=CLASSIFY),
        ]
        stub.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=given(2.0)))
    first, second = records(logs, "a")
    assert to_array(first.predict_log.request.inputs["x"]).tolist() == [1.0, 2.0]
    assert to_array(first.predict_log.response.outputs["sum"]).tolist() == [2.5, 3.5]
    metadata = first.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("adder", 4)
    assert (metadata.sampling_config.sampling_rate, list(metadata.saved_model_tags)) == (1.0, ["serve"])
    assert abs(metadata.timestamp_secs - time.time()) < 60
    assert to_array(second.predict_log.response.outputs["shifted"]).tolist() == [6.0], "REST's calls too"
    kinds = [entry.WhichOneof("log_type") for entry in records(logs, "m")]
    assert kinds == ["classify_log", "regress_log", "multi_inference_log"]
    assert records(logs, "m")[1].regress_log.response.result.regressions[0].value == 6.0

    shutil.copytree(models / "m/3", tmp_path / "warm/m/1")
    (tmp_path / "warm/m/1" / RECORDS).parent.mkdir()
    shutil.copy(next(logs.glob("m-*")), tmp_path / "warm/m/1" / RECORDS)
    with EmbeddedServer(tmp_path / "warm", port=0) as server:
        assert server.core.manager.available() == {"m": [1]}


def test_a_share_is_drawn(models: Path, tmp_path: Path) -> None:
    text = models_config(models, adder=logging_config(tmp_path / "half", 0.5), m=logging_config(tmp_path / "none", 0))
    with serving(models, tmp_path, text) as (_, channel):
        for _ in range(200):
            predict(channel, request())
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Regress(regression_pb2.RegressionRequest(model_spec=spec("regress"), input=given(3.0)))
    assert 60 < len(records(tmp_path, "half")) < 140
    assert not records(tmp_path, "none")


def test_files_are_ended_at_their_size_and_the_oldest_are_removed(models: Path, tmp_path: Path) -> None:
    text = models_config(models, adder=logging_config(tmp_path / "a"))
    (tmp_path / "a-b-20200101T000000-1-1.tfrecord").write_text("of the prefix a-b")
    limits = {"request_log_file_bytes": 5_000, "request_log_files": 3}
    with serving(models, tmp_path, text, **limits) as (_, channel):
        for value in range(30):
            predict(channel, request(inputs={"x": np.full(250, value, np.float32), "y": [0.0]}))
    files = [path for path in tmp_path.glob("a-*.tfrecord") if not path.name.startswith("a-b")]
    assert len(files) == 3
    assert all(path.stat().st_size < 5_000 for path in files)
    found = {int(to_array(one.predict_log.request.inputs["x"])[0]) for one in records(tmp_path, "a-[0-9]")}
    assert max(found) == 29, "the newest are kept"
    assert (tmp_path / "a-b-20200101T000000-1-1.tfrecord").exists()
    assert not list(tmp_path.glob("*.part"))


def test_records_reach_the_disk_while_the_server_runs(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path, models_config(models, adder=logging_config(tmp_path / "a"))) as (server, channel):
        predict(channel, request())
        eventually(lambda: bool(list(tmp_path.glob("a-*.part"))))
        predict(channel, request())
        part = next(iter(tmp_path.glob("a-*.part")))
        eventually(lambda: len(list(tf.data.TFRecordDataset([str(part)]))) == 2, seconds=5)
        asked = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(models_config(models, adder=logging_config(tmp_path / "b")), asked.config)
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(asked, timeout=10)
        predict(channel, request())
        eventually(lambda: len(records(tmp_path, "a")) == 2, seconds=5)
        asked.config.model_config_list.config[0].ClearField("logging_config")
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(asked, timeout=10)
        predict(channel, request())
        eventually(lambda: len(records(tmp_path, "b")) == 1, seconds=5)
        counted = ':tensorflow:serving:request_log_count{model_name="adder",status_code="OK"} 3'
        eventually(lambda: counted in server.core.monitoring.page(), seconds=5)


def test_a_file_ends_with_its_time(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_logs, "MAX_FILE_SECONDS", 0.2)
    monkeypatch.setattr(prediction_logs, "FLUSH_SECONDS", 0.1)
    with serving(models, tmp_path, models_config(models, adder=logging_config(tmp_path / "a"))) as (_, channel):
        predict(channel, request())
        eventually(lambda: len(records(tmp_path, "a")) == 1, seconds=5)


def test_a_slow_disk_costs_records_and_no_time(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, waits = threading.Event(), threading.Event()
    write = prediction_logs._Collector.write

    def slow(collector: Any, record: bytes) -> None:
        waits.set()
        held.wait(20)
        write(collector, record)

    monkeypatch.setattr(prediction_logs, "MAX_WAITING", 5)
    monkeypatch.setattr(prediction_logs._Collector, "write", slow)
    with serving(models, tmp_path, models_config(models, adder=logging_config(tmp_path / "a"))) as (server, channel):
        predict(channel, request())
        waits.wait(10)
        started = time.monotonic()
        for _ in range(9):
            predict(channel, request())
        assert time.monotonic() - started < 5
        held.set()
        eventually(lambda: 'status_code="OK"} 6' in server.core.monitoring.page())
        assert 'model_name="adder",status_code="RESOURCE_EXHAUSTED"} 4' in server.core.monitoring.page()
        monkeypatch.setattr(prediction_logs, "MAX_WAITING_BYTES", 100)
        predict(channel, request())
        assert 'model_name="adder",status_code="RESOURCE_EXHAUSTED"} 5' in server.core.monitoring.page()
    assert len(records(tmp_path, "a")) == 6


def test_a_disk_that_refuses_costs_records_and_no_call(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    text = models_config(models, adder=logging_config(tmp_path / "file/a"))
    with serving(models, tmp_path, text) as (server, channel):
        predict(channel, request())
        eventually(lambda: 'status_code="UNAVAILABLE"} 1' in server.core.monitoring.page())
        (tmp_path / "file").unlink()
        predict(channel, request())
    assert len(records(tmp_path / "file", "a")) == 1, "it goes on when it can"


def test_a_disk_that_is_full_is_told_of_each_record(models: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"x": np.zeros(100_000, np.float32), "y": [0.0]}
    with serving(models, tmp_path, models_config(models, adder=logging_config(tmp_path / "a"))) as (server, channel):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the disk takes no more of any file
            predict(channel, request(outputs=["sum"]))
            predict(channel, request(inputs=large, outputs=["amount"]))
            eventually(lambda: 'status_code="UNAVAILABLE"} ' in server.core.monitoring.page(), seconds=5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        predict(channel, request(inputs=large, outputs=["amount"]))
    lines = server.core.monitoring.page().splitlines()
    counts = [int(line.split()[-1]) for line in lines if line.startswith(":tensorflow:serving:request_log_count")]
    assert sum(counts) == 3
    assert len(records(tmp_path, "a")) == 1, "it goes on in another file when it can"


@pytest.mark.parametrize(
    ("config", "code", "told"),
    [
        # tensorflow_serving/core/log_collector.cc, LogCollector::Create
        (logging_config("/x/a", more='type: "sawmill"'), "NOT_FOUND",
         "Cannot find LogCollector::Factory for type: sawmill"),
        (logging_config("logs/a"), "INVALID_ARGUMENT", "filename_prefix must be an absolute path"),
        (logging_config("/x/"), "INVALID_ARGUMENT", "filename_prefix must be an absolute path"),
        (logging_config("ROOT/a", 1.5), "INVALID_ARGUMENT", "sampling_rate must be from 0 to 1; received 1.5"),
        (logging_config("ROOT/a").replace("sampling_rate", "attributes: 1 sampling_rate"), "INVALID_ARGUMENT",
         "attributes and custom_logging_config are not supported"),
        (logging_config("/x/a"), "INVALID_ARGUMENT", "must lie below --request_log_root"),
        (logging_config("ROOT/../a"), "INVALID_ARGUMENT", "must lie below --request_log_root"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(confined: Any, config: str, code: str, told: str) -> None:
    models, root, channel = confined
    asked = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(models_config(models, adder=config.replace("ROOT", str(root))), asked.config)
    with pytest.raises(grpc.RpcError) as refused:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(asked, timeout=10)
    assert refused.value.code().name == code
    assert told in refused.value.details()
    assert predict(channel, request())


@pytest.fixture(scope="module")
def confined(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("confined")
    with serving(models, folder, models_config(models), request_log_root=folder) as (_, channel):
        yield models, folder, channel


def test_files_are_confined_where_models_are(models: Path, tmp_path: Path) -> None:
    text = models_config(models, adder=logging_config(tmp_path / "a"))
    with pytest.raises(Exception, match="set --request_log_root"), serving(models, tmp_path, text, models_root=models):
        pass


def test_a_folder_of_models_takes_the_logging_of_its_models_config(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "adder", tmp_path / "models/adder")
    (tmp_path / "models/models.config").write_text(
        models_config(tmp_path / "models", adder=logging_config(tmp_path / "a"))
    )
    with EmbeddedServer(tmp_path / "models", port=0) as server, grpc.insecure_channel(server.address) as channel:
        predict(channel, request())
    assert len(records(tmp_path, "a")) == 1
