"""One run of the whole pipeline: what it pushed, what it measured, what it says, and what a second run reuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations
from click.testing import CliRunner
from sklearn.metrics import log_loss, roc_auc_score

from components.report_gen.figures import read_evaluation
from mim_keras.metrics.gauc import gauc
from serving.client import ENCODER, RANKER, RETRIEVAL, MimClient, ServerError
from serving.embedded_server.server import EmbeddedServer
from serving.representation_center.center import Version, open_center
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import INT8_SCALE, restore_vectors
from tests.conftest import Run
from tfx_pipeline.cli import main
from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import executions
from tfx_pipeline.settings import Settings


def folder(run: Run, node: str, output: str) -> Path:
    """The newest artifact that a node wrote."""
    return max((run.root / "artifacts" / node / output).iterdir(), key=lambda path: int(path.name))


def pushed(run: Run, model: str) -> Path:
    return max((run.root / "models" / model).iterdir(), key=lambda path: int(path.name))


@pytest.fixture(scope="module")
def ranker(tiny_run: Run) -> Any:
    return tf.saved_model.load(str(pushed(tiny_run, RANKER)))


@pytest.fixture(scope="module")
def test_rows(tiny_run: Run) -> list[tuple[bytes, dict[str, list]]]:
    """Serialised test examples and their plain values."""
    rows = []
    for file in sorted((folder(tiny_run, "HistoryGen", "examples") / "Split-test").iterdir()):
        for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            plain = {n: list(getattr(f, f.WhichOneof("kind") or "bytes_list").value) for n, f in features.items()}
            rows.append((record, plain))
    return rows


def scores(ranker: Any, rows: list[tuple[bytes, dict[str, list]]]) -> np.ndarray:
    return ranker.signatures["serve_examples"](examples=tf.constant([record for record, _ in rows]))["ctr"].numpy()


def test_all_models_are_pushed_with_their_signatures(tiny_run: Run) -> None:
    expected = {
        ENCODER: {"serving_default", "embed_examples"},
        RETRIEVAL: {"serving_default", "similar_items"},
        RANKER: {"rank", "rank_with_attributes", "rank_with_vectors", "serve_examples", "transform_features"},
    }
    for model, signatures in expected.items():
        assert set(tf.saved_model.load(str(pushed(tiny_run, model))).signatures) == signatures


def test_metrics_equal_an_independent_computation(tiny_run: Run, ranker: Any, test_rows: list) -> None:
    measured = read_evaluation(str(folder(tiny_run, "Evaluator", "evaluation")))
    score = scores(ranker, test_rows)
    label = np.array([plain["clicked"][0] for _, plain in test_rows])
    user = np.array([plain["user_id"][0] for _, plain in test_rows])
    segment = np.array([plain["segment"][0].decode() for _, plain in test_rows])
    assert measured["rows"] == len(label)
    assert measured["auc"] == pytest.approx(roc_auc_score(label, score), abs=2e-3)  # TFMA bins scores
    assert measured["gauc"] == pytest.approx(gauc(user, label, score), abs=1e-6)
    assert measured["logloss"] == pytest.approx(log_loss(label, score.astype(np.float64)), abs=1e-5)
    assert measured["calibration"] == pytest.approx(score.mean() / label.mean(), abs=1e-4)
    assert set(measured["slices"]) == set(segment)
    for name, figures in measured["slices"].items():
        own = segment == name
        assert figures["rows"] == own.sum()
        if figures["gauc"] is not None:
            assert figures["gauc"] == pytest.approx(gauc(user[own], label[own], score[own]), abs=1e-6)


def test_metrics_command(tiny_run: Run) -> None:
    done = CliRunner().invoke(main, ["metrics", "--root", str(tiny_run.root), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {"auc", "gauc", "logloss", "calibration", "rows", "slices", "labels", "baselines", "released"}
    assert found["labels"] == {}, "the click alone"
    assert found["released"] is True
    assert set(found["baselines"]["baselines"]) >= {"item click rate", "gradient boosting"}
    assert "\nreleased" in CliRunner().invoke(main, ["metrics", "--root", str(tiny_run.root)]).stdout
    empty = CliRunner().invoke(main, ["metrics", "--root", str(tiny_run.data)])
    assert empty.exit_code == 1
    assert "nothing was run there yet; start with `mim run`" in empty.stderr


def test_every_row_is_accounted_for(tiny_run: Run) -> None:
    figures = json.loads((folder(tiny_run, "ReportGen", "report") / "figures.json").read_text())
    for account in figures["accounts"].values():
        rejected = sum(n for name, n in account.items() if name.startswith("rejected"))
        assert account["rows in"] == account["rows out"] + rejected
    assert figures["accounts"]["impressions"]["rows in"] == 6_000


def test_the_report_stands_alone(tiny_run: Run) -> None:
    page = (tiny_run.root / "report.html").read_text()
    assert page.count("data:image/") > 10
    assert "http" not in page.replace("http-equiv", "")
    for told in ("the same ranker with ids alone", "of the gap between guessing (0.5) and the oracle", "ids alone"):
        assert told in page


def test_the_snapshot_is_what_the_pushed_encoder_says(tiny_run: Run) -> None:
    snapshot = Snapshot.load(folder(tiny_run, "EmbeddingExporter", "embeddings"))
    facts = json.loads((pushed(tiny_run, ENCODER) / "assets.extra/mim.json").read_text())
    ranker_facts = json.loads((pushed(tiny_run, RANKER) / "assets.extra/mim.json").read_text())
    assert snapshot.manifest.encoder_digest == facts["digest"]
    assert ranker_facts["encoder_version"] == facts["version"] == snapshot.manifest.encoder_version
    encoder = tf.saved_model.load(str(pushed(tiny_run, ENCODER)))
    place = {item.encode(): row for row, item in enumerate(snapshot.item_ids)}
    for split in ("train", "valid"):
        for file in (folder(tiny_run, "CatalogueGen", "items") / f"Split-{split}").iterdir():
            records = list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator())
            answer = encoder.signatures["embed_examples"](examples=tf.constant(records))
            rows = [place[item] for item in answer["item_id"].numpy()]
            np.testing.assert_allclose(snapshot.vectors[rows] / INT8_SCALE, answer["embedding"], atol=0.6 / INT8_SCALE)


@pytest.fixture(scope="module")
def client(tiny_run: Run) -> Iterator[MimClient]:
    with EmbeddedServer(tiny_run.root / "models", port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available(ENCODER, RANKER, RETRIEVAL)
        yield client


def test_served_rank_equals_serve_examples(client: MimClient, ranker: Any, test_rows: list) -> None:
    for row, expected in zip(test_rows[:40], scores(ranker, test_rows[:40]), strict=True):
        plain = row[1]
        (ranked,) = client.rank(
            plain["user_id"][0].decode(),
            [item.decode() for item in plain["history_item_ids"]],
            [plain["item_id"][0].decode()],
            plain["history_ages"],
        )
        assert ranked.score == pytest.approx(float(expected), abs=1e-5)


def test_rank_orders_and_knows_unseen_users_and_items(client: MimClient) -> None:
    ranked = client.rank("nobody", ["i00001", "gone"], ["i00002", "i00003", "never heard of"])
    assert [scored.score for scored in ranked] == sorted((s.score for s in ranked), reverse=True)
    assert {scored.item_id for scored in ranked} == {"i00002", "i00003", "never heard of"}
    assert all(0 < scored.score < 1 for scored in ranked)


def test_an_item_newer_than_the_ranker_is_ranked_by_its_vector(
    client: MimClient, tiny_run: Run, tmp_path: Path
) -> None:
    invoke = CliRunner().invoke
    center_folder = str(tmp_path / "center")
    done = invoke(main, ["center", "load", str(tiny_run.root), "--center", center_folder, "--promote"])
    assert done.exit_code == 0, done.stderr
    snapshot = Snapshot.load(folder(tiny_run, "EmbeddingExporter", "embeddings"))
    some = snapshot.item_ids[snapshot.modalities > 0][:3].tolist()
    history = some[:2]
    plain = {scored.item_id: scored.score for scored in client.rank("u00001", history, [*some, "brand new"])}
    with open_center(center_folder) as center, MimClient(client._target, timeout=20, center=center) as asking:
        stored = center.get(some)
        rows = [snapshot.item_ids.tolist().index(item) for item in some]
        np.testing.assert_allclose(stored.vectors, restore_vectors(snapshot.vectors[rows]), atol=1e-6)
        missed = {scored.item_id: scored.score for scored in asking.rank("u00001", history, [*some, "brand new"])}
        assert missed == pytest.approx(plain, abs=1e-6)
        center.flush_misses()
        assert center.queued(10) == ["brand new"]

        vectors, version, _ = client.embed_many([(b"", "red striped heart mug", "")])
        center.put(version, ["brand new"], ["0" * 32], vectors, np.array([2]))
        known = {scored.item_id: scored.score for scored in asking.rank("u00001", history, ["brand new", *some])}
        assert abs(known.pop("brand new") - plain.pop("brand new")) > 1e-6
        assert known == pytest.approx(plain, abs=1e-6)
        ask = ["rank", "--user", "u00001", "--candidates", "brand new", "--server", client._target, "--json"]
        by_command = json.loads(invoke(main, [*ask, "--center", center_folder]).stdout)
        assert by_command[0]["ctr"] == pytest.approx(asking.rank("u00001", [], ["brand new"])[0].score, abs=1e-6)

    with open_center(str(tmp_path / "other")) as other, MimClient(client._target, timeout=20, center=other) as asking:
        other.add_version(Version("another", "d", 16, "int8", ready=True))
        other.promote("another")
        without = {scored.item_id: scored.score for scored in asking.rank("u00001", history, [*some, "brand new"])}
        assert without == pytest.approx(missed, abs=1e-6), "a Center that lacks the ranker's version costs the vectors"


def test_similar_and_embed_agree_with_the_snapshot(client: MimClient, tiny_run: Run) -> None:
    snapshot = Snapshot.load(folder(tiny_run, "EmbeddingExporter", "embeddings"))
    vectors = snapshot.vectors / INT8_SCALE
    similar = client.similar("i00001", 5)
    best = np.argsort(-(vectors @ vectors[1]))
    best = [i for i in best if i != 1 and snapshot.modalities[i]][:5]
    np.testing.assert_allclose([s.score for s in similar], (vectors @ vectors[1])[best], atol=1e-5)
    with pytest.raises(ServerError, match="no vector of item 'nothing'"):
        client.similar("nothing")
    vector = client.embed(title="red star lamp")
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)
    assert len(client.nearest(vector, 3)) == 3


def test_commands_ask_the_server(client: MimClient, tiny_run: Run) -> None:
    server = client._target
    ask = [
        "rank",
        "--user",
        "u00001",
        "--history",
        "i00001,i00002",
        "--candidates",
        "i00003,i00004",
        "--server",
        server,
    ]
    found = json.loads(CliRunner().invoke(main, [*ask, "--json"]).stdout)
    assert {row["item_id"] for row in found} == {"i00003", "i00004"}
    assert "i00003" in CliRunner().invoke(main, ask).stdout
    found = json.loads(CliRunner().invoke(main, ["similar", "i00001", "--server", server, "--json"]).stdout)
    assert len(found) == 10
    found = json.loads(
        CliRunner().invoke(main, ["embed", "--title", "blue heart", "--server", server, "--json"]).stdout
    )
    assert len(found["embedding"]) == 16


def test_a_second_run_reuses_everything_that_did_not_change(tiny_run: Run) -> None:
    before = len(executions(tiny_run.root))
    settings = Settings.load(tiny_run.config)
    times = local.run(settings, str(tiny_run.data), str(tiny_run.root))
    second = executions(tiny_run.root)[before:]
    cached = {node for node, state in second if state == "CACHED"}
    ran = {node for node, state in second if state == "COMPLETE"}
    # Now there is a release to compare with, so the data and the ranker are checked anew, and what follows from it.
    assert ran <= {
        *("ReleasedRanker", "ReleasedStatistics.items", "ReleasedStatistics.examples", "ExampleCheck.items"),
        *("ExampleCheck.examples", "Evaluator", "BaselineCheck", "ReleaseGen", "ReleasePusher", "ReportGen"),
    }
    assert len(cached) >= 15
    assert set(times.reused) <= set(times.seconds)
    assert len(times.reused) >= 15
