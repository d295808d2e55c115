"""A version on trial, compared, promoted or gone again; the file and the server agree at every step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from serving import messages
from serving.client import MimClient, RequestLog, ServerError
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.request_log import read_requests
from serving.rollout import Rollout, RolloutError
from serving.shadow import Comparison, Limits, compare, stability_index
from tests.serving.adder import eventually, export
from tfx_pipeline.cli import main

X = np.linspace(0, 1, 50, dtype=np.float32)
WIDE = {"max_psi": 9.0, "max_mean_shift": 9.0, "max_p99_ratio": 99.0, "min_requests": 5}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Path, EmbeddedServer]]:
    export(tmp_path / "adder/1", 1.0)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "adder" base_path: "{tmp_path}/adder" model_platform: "tensorflow" '
        f'logging_config {{ log_collector_config {{ filename_prefix: "{tmp_path}/log" }} '
        "sampling_config { sampling_rate: 0.5 } } } }"
    )
    options = ServerOptions(
        model_config_file=config,
        port=0,
        file_system_poll_wait_seconds=0.05,
        max_num_load_retries=0,
        allow_version_labels_for_unavailable_models=True,
    )
    with EmbeddedServer(options=options) as server:
        yield config, server


@pytest.fixture
def running(fresh: tuple[Path, EmbeddedServer]) -> tuple[Path, EmbeddedServer]:
    assert rollout_of(fresh).hold().labels == {"stable": 1}
    return fresh


def export_second(module: Any, folder: Path) -> None:
    """Exports the signature `shift` of a module as version 2 of adder, complete when it appears."""
    tf.saved_model.save(module, str(folder / "part"), {"shift": module.shift})
    (folder / "part").rename(folder / "adder/2")


def rollout_of(running: tuple[Path, EmbeddedServer]) -> Rollout:
    return Rollout("adder", running[0], [running[1].address])


def shifted(server: EmbeddedServer, **options: Any) -> float:
    with MimClient(server.address, **options) as client:
        return float(client.predict("adder", "shift", {"x": X})["shifted"][0])


def logged(server: EmbeddedServer, path: Path, count: int = 6) -> Path:
    log = RequestLog(path, share=1.0)
    with MimClient(server.address, request_log=log) as client:
        for _ in range(count):
            client.predict("adder", "shift", {"x": X})
    log.close()
    return path


def labels_in(config: Path) -> dict[str, int]:
    read = text_format.Parse(config.read_text(), messages.ModelServerConfig())
    assert read.model_config_list.config[0].logging_config.sampling_config.sampling_rate == 0.5, "the rest is kept"
    return dict(read.model_config_list.config[0].version_labels)


def test_the_whole_way(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, server = running
    requests = logged(server, tmp_path / "requests")
    export(tmp_path / "adder/2", 1.01)
    place = rollout_of(running).canary(2)
    assert place.labels == labels_in(config) == {"stable": 1, "canary": 2}
    assert place.states == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert shifted(server, labels={"adder": "stable"}) == 1.0
    assert shifted(server, canaries={"adder": 1.0}) == pytest.approx(1.01)
    where = ["--model", "adder", "--server", server.address, "--model_config_file", str(config)]
    limits = [word for name, value in WIDE.items() for word in ("--limit", f"{name}={value}")]
    ended = CliRunner().invoke(main, ["rollout", "promote", *where, "--requests", str(requests), "--json", *limits])
    assert ended.exit_code == 0, ended.output
    measured = json.loads(ended.stdout)
    assert (measured["requests"], measured["errors"], measured["top_overlap"]) == (6, 0, 1.0)
    assert measured["mean"] == pytest.approx([1.5, 1.51], abs=1e-3)
    assert labels_in(config) == {"stable": 2, "previous": 1}
    assert shifted(server, labels={"adder": "stable"}) == pytest.approx(1.01)
    assert shifted(server, canaries={"adder": 1.0}, labels={"adder": "stable"}) == pytest.approx(1.01), "no canary now"
    back = rollout_of(running).rollback()
    assert back.labels == labels_in(config) == {"stable": 1}
    assert shifted(server, labels={"adder": "stable"}) == 1.0
    eventually(lambda: server.core.manager.available() == {"adder": [1]})
    with pytest.raises(RolloutError, match="neither a canary nor a previous version"):
        rollout_of(running).rollback()


def test_the_file_keeps_its_comments_and_what_is_not_known(
    fresh: tuple[Path, EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    path = fresh[0]
    path.write_text("# Ours.\n" + path.read_text().replace("sampling_config {", "sampling_config { future: 3"))
    text = path.read_text()
    rollout_of(fresh).hold()
    asked = ' model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 }'
    assert path.read_text() == text.replace(" } } }", " } }" + asked + " }")
    assert "fields that are not known here: future" in caplog.text


def test_servers_that_share_a_configuration_go_together(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, first = running
    options = dataclasses.replace(first.options, port=0)
    with EmbeddedServer(options=options) as second:
        both = Rollout("adder", config, [first.address, second.address])
        export(tmp_path / "adder/2", 2.0)
        both.canary(2)
        assert both.promote(None).labels == {"stable": 2, "previous": 1}
        for server in (first, second):
            assert shifted(server, labels={"adder": "stable"}) == 2.0


def test_a_version_that_took_over_by_itself_is_sent_back(fresh: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, server = fresh
    export(tmp_path / "adder/2", 2.0)
    eventually(lambda: server.core.manager.available() == {"adder": [2]})
    with pytest.raises(RolloutError, match="version 2 of adder took over by itself.*hold --version V; then start"):
        rollout_of(fresh).canary(2)
    where = ["--model", "adder", "--server", server.address, "--model_config_file", str(config)]
    ended = CliRunner().invoke(main, ["rollout", "hold", *where, "--version", "1"])
    assert ended.exit_code == 0, ended.output
    assert labels_in(config) == {"stable": 1}
    assert shifted(server, labels={"adder": "stable"}) == 1.0
    eventually(lambda: server.core.manager.available() == {"adder": [1]})
    assert rollout_of(fresh).canary(2).labels == {"stable": 1, "canary": 2}
    with pytest.raises(RolloutError, match="version 7 of adder does not load"):
        rollout_of(fresh).hold(7, seconds=0.5)
    assert labels_in(config) == {"stable": 1, "canary": 2}, "as it was"


def test_a_canary_goes_without_a_trace(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    export(tmp_path / "adder/2", 9.0)
    rollout_of(running).canary(2)
    assert rollout_of(running).rollback().labels == {"stable": 1}
    eventually(lambda: running[1].core.manager.available() == {"adder": [1]})


def test_a_canary_that_does_not_load_changes_nothing(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, server = running
    (tmp_path / "adder/2").mkdir()
    before = text_format.Parse(config.read_text(), messages.ModelServerConfig())
    with pytest.raises(RolloutError, match="version 2 of adder does not load: .*Could not find SavedModel"):
        rollout_of(running).canary(2)
    assert text_format.Parse(config.read_text(), messages.ModelServerConfig()) == before
    assert shifted(server) == 1.0
    with pytest.raises(RolloutError, match="version 1 of adder is the stable one already"):
        rollout_of(running).canary(1)


@pytest.mark.parametrize(
    ("amount", "limit", "told"),
    [
        (2.0, {"max_psi": 0.25}, "the scores' stability index is"),
        (2.0, {"max_mean_shift": 0.2}, "the mean score went from 1.5000 to 2.5000; a shift of at most 20% is allowed"),
        (1.0, {"min_requests": 100}, "6 requests were compared; at least 100 are needed"),
        (1.0, {"max_p99_ratio": 0.0001}, "at most 0.0001 times is allowed"),
    ],
)
def test_past_a_limit_nothing_is_promoted(
    running: tuple[Path, EmbeddedServer], tmp_path: Path, amount: float, limit: dict[str, float], told: str
) -> None:
    requests = logged(running[1], tmp_path / "requests")
    export(tmp_path / "adder/2", amount)
    rollout_of(running).canary(2)
    where = ["--model", "adder", "--server", running[1].address, "--model_config_file", str(running[0])]
    limits = [word for name, value in {**WIDE, **limit}.items() for word in ("--limit", f"{name}={value}")]
    ended = CliRunner().invoke(main, ["rollout", "promote", *where, "--requests", str(requests), *limits])
    assert ended.exit_code == 1
    assert told in " ".join(ended.output.split())
    assert labels_in(running[0]) == {"stable": 1, "canary": 2}


def test_requests_that_only_the_new_version_refuses(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    requests = logged(running[1], tmp_path / "requests", 10)

    class Picky(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def shift(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies([tf.debugging.Assert(tf.size(x) < 3, ["at most three"])]):
                return {"shifted": x + 0.0}

    export_second(Picky(), tmp_path)
    roll = rollout_of(running)
    roll.canary(2)
    measured = roll.compare(read_requests(requests))
    assert (measured.requests, measured.errors) == (10, 10)
    with pytest.raises(RolloutError, match=r"10 of 10 requests failed on the new version alone \(INVALID_ARGUMENT"):
        roll.promote(measured, Limits(min_requests=5))


def test_what_cannot_begin(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, server = running
    with pytest.raises(RolloutError, match="lists adder; other is not among them"):
        Rollout("other", config, [server.address])
    with pytest.raises(RolloutError, match="cannot be read"):
        Rollout("adder", tmp_path / "none", [server.address])
    (tmp_path / "bad").write_text("{")
    with pytest.raises(RolloutError, match="is no ModelServerConfig"):
        Rollout("adder", tmp_path / "bad", [server.address])
    with pytest.raises(RolloutError, match="has no canary; start one"):
        rollout_of(running).promote(None)
    with pytest.raises(ServerError):
        Rollout("adder", config, ["127.0.0.1:9"]).place()
    request = messages.PredictRequest()
    request.model_spec.name = "adder"
    with grpc.insecure_channel("127.0.0.1:9") as channel, pytest.raises(ServerError):
        compare(channel, [request], "adder", 1, 2)
    ended = CliRunner().invoke(main, ["rollout", "promote", "--model_config_file", str(config)])
    assert ended.exit_code == 2
    assert "promote needs --requests FILE" in ended.output
    words = ["rollout", "promote", "--model_config_file", str(config), "--unseen", "--limit", "x=1"]
    assert "--limit is one of min_requests, max_psi" in " ".join(CliRunner().invoke(main, words).output.split())


def test_stability_index() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=20_000)
    assert stability_index(old, old) == 0.0
    assert stability_index(old, rng.normal(size=20_000)) < 0.01
    # By hand: a normal shifted by one has, over the deciles q of the first, shares Φ(q_i - 1) - Φ(q_{i-1} - 1).
    assert stability_index(old, rng.normal(1.0, size=20_000)) == pytest.approx(0.93, abs=0.06)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 50))
def test_each_limit_is_said(psi: float, overlap: float, errors: int) -> None:
    measured = Comparison(200, errors, "x", (0.5, 0.5), psi, overlap, (1.0, 1.0), (1.0, 1.0))
    passed = [psi > 0.25, overlap < 0.3, errors > 0]
    assert len(measured.beyond(Limits())) == sum(passed)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_pass_no_limit(wrong: float) -> None:
    good: dict[str, Any] = {"mean": (0.5, 0.5), "psi": 0.0, "top_overlap": 1.0, "p50": (1.0, 1.0), "p99": (1.0, 1.0)}
    assert Comparison(200, 0, "", **good).beyond(Limits()) == []
    bad = {"mean": (0.5, wrong), "psi": wrong, "p99": (1.0, wrong)}
    if np.isnan(wrong):
        bad["top_overlap"] = wrong
    for name, value in bad.items():
        assert len(Comparison(200, 0, "", **{**good, name: value}).beyond(Limits())) == 1, name
    assert Comparison(200, 0, "", **{**good, "p99": (0.0, 0.0)}).beyond(Limits()) == []


def test_scores_that_are_not_finite_are_errors(running: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    requests = logged(running[1], tmp_path / "requests", 10)

    class Broken(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def shift(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"shifted": tf.concat([x[:-1], [float("nan")]], axis=0)}

    export_second(Broken(), tmp_path)
    roll = rollout_of(running)
    roll.canary(2)
    measured = roll.compare(read_requests(requests))
    assert (measured.requests, measured.errors) == (10, 10)
    assert "scores are not finite" in measured.first_error


def test_two_roll_outs_of_one_file_lose_nothing(fresh: tuple[Path, EmbeddedServer], tmp_path: Path) -> None:
    config, server = fresh
    export(tmp_path / "other/1", 5.0)
    export(tmp_path / "other/2", 6.0)
    listed = text_format.Parse(config.read_text(), messages.ModelServerConfig())
    added = listed.model_config_list.config.add(name="other", base_path=f"{tmp_path}/other")
    added.model_platform = "tensorflow"
    added.model_version_policy.specific.versions.append(1)
    config.write_text(text_format.MessageToString(listed))
    with grpc.insecure_channel(server.address) as channel:
        read = text_format.Parse(config.read_text(), messages.ModelServerConfig())
        messages.calls(channel)["HandleReloadConfigRequest"](messages.ReloadConfigRequest(config=read), timeout=20)
    one, other = Rollout("adder", config, [server.address]), Rollout("other", config, [server.address])
    again = Rollout("other", config, [server.address])
    other.hold(2)
    one.hold()
    now = text_format.Parse(config.read_text(), messages.ModelServerConfig())
    entries = {entry.name: entry for entry in now.model_config_list.config}
    assert dict(entries["other"].version_labels) == {"stable": 2}, "the other's change is kept"
    assert dict(entries["adder"].version_labels) == {"stable": 1}
    with pytest.raises(RolloutError, match="was changed for other by somebody else meanwhile"):
        again.hold(1)
    assert dict(again.place().labels) == {}
