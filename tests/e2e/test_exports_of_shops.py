"""A shop's own export, of any habit, to a trained and served ranker, without a script of the user's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from serving.client import MimClient, ServerError, SignatureError
from serving.embedded_server.server import EmbeddedServer
from tests.components.exports import EXPORTS, german_shop
from tests.conftest import TINY_CONFIG
from tfx_pipeline.cli import main

GUIDE = Path(__file__).parents[2] / "docs/shop.md"
CANDIDATES = {"requests": ["10001", "10002"], "nested": ["6800000000001", "6800000000002"]}
CONTEXT = {"requests": {"device": "app"}, "nested": {}}


def write_config(path: Path) -> Path:
    # Sixteen different contents in all: there is little to tell apart.
    path.write_text(TINY_CONFIG)
    return path


def invoke(words: list[str]) -> Result:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output[-3_000:]
    return done


@pytest.mark.parametrize("name", CANDIDATES)
def test_init_run_rank(name: str, tmp_path: Path) -> None:
    export = EXPORTS[name](tmp_path / "shop", users=60, impressions=4_000)
    root, config = tmp_path / "run", write_config(tmp_path / "tiny.yaml")
    invoke(["init", "--items", str(export.items), f"--{export.kind}", str(export.log)])
    run = ["run", "--config", str(config), "--data", str(tmp_path / "shop"), "--root", str(root)]
    invoke(run)
    if name == "requests":  # two labels; the second run is held against the first
        invoke(
            [*run, "--set", "stages.ciubm.multi_label=esmm", "--set", "stages.ciubm.final_score={ctr: 1, price: 0.5}"]
        )
        found = json.loads(invoke(["metrics", "--root", str(root), "--json"]).output)
        of_orders = found["labels"]["ordered"]
        assert of_orders["rows"] == found["rows"]
        assert of_orders["logloss"] < found["logloss"]
        assert of_orders["calibration"] > 0
    with EmbeddedServer(root / "models", port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available("mim_ranker", "mim_encoder")
        if name == "nested":  # the encoder reads the ready-made embedding
            contents = [(b"", "red mug", "")] * 2
            own = client.embed_many(contents, {"embedding": np.eye(4)[:2]}).vectors
            missing = client.embed_many(contents).vectors
            assert np.abs(own[0] - own[1]).max() > 1e-3
            np.testing.assert_array_equal(missing[0], missing[1])
            assert client.embed_many([(b"", "", "")], {"embedding": np.eye(4)[:1]}).vectors.any()
        context = CONTEXT[name]
        found = client.rank("u", CANDIDATES[name][:1], CANDIDATES[name], context=context)
        assert {one.item_id for one in found} == set(CANDIDATES[name])
        assert set(found[0].outputs) == ({"ctr", "ordered", "final_score"} if name == "requests" else set())
        assert all(0 < one.outputs.get("ordered", 0.5) < one.outputs.get("ctr", 1) for one in found)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        if name == "requests":
            with pytest.raises(SignatureError, match="device"):
                client.rank("u", [], CANDIDATES[name])
            rank_new_items(client, server.address, context)


def rank_new_items(client: MimClient, address: str, context: dict[str, str]) -> None:
    """Items that the catalogue lacks have scores of their own by the attributes that the request gives."""
    new = ["new 1", "new 2", "new 3"]
    plain = {one.item_id: one.score for one in client.rank("7001", ["10001"], new, context=context)}
    assert len(set(plain.values())) == 1
    attributes = {"brand": ["b1", "b2", None], "price": [5, 1400.0, None]}
    found = {one.item_id: one for one in client.rank("7001", ["10001"], new, None, context, attributes)}
    assert len({one.score for one in found.values()}) == 3
    assert found["new 3"].score == pytest.approx(plain["new 3"])
    # The final score is ctr · √price here.
    times = found["new 2"].score / found["new 2"].outputs["ctr"] / found["new 1"].score * found["new 1"].outputs["ctr"]
    assert times == pytest.approx((1400 / 5) ** 0.5, rel=1e-4)
    words = ["rank", "--server", address, "--user", "7001", "--history", "10001", "--candidates", ",".join(new)]
    words += ["--context", "device=app", "--attribute", "brand=b1,b2,", "--attribute", "price=5,1400,", "--json"]
    shown = {one["item_id"]: one["score"] for one in json.loads(invoke(words).output)}
    assert shown == {name: pytest.approx(one.score) for name, one in found.items()}
    with pytest.raises(SignatureError, match="candidate_price.*not taken: candidate_colour"):
        client.rank("7001", [], new, None, context, {"colour": ["red"] * 3})
    with pytest.raises(ServerError, match="candidate_price takes numbers"):
        client.rank("7001", [], new, None, context, {"price": ["cheap"] * 3})


def test_the_guide_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/shop.md, with less training; the server in this process."""
    german_shop(tmp_path / "export", users=60, impressions=4_000)
    monkeypatch.chdir(tmp_path)
    less = ["evaluation.must_beat_baselines=false", "evaluation.ids_only_comparison=false"]
    less += [f"stages.{stage}.training.epochs=2" for stage in ("pretrain", "csft", "ciubm")]
    less += ["stages.ciubm.ensemble_size=1", "stages.ciubm.training.patience=1", "stages.encoder.image.image_size=16"]
    commands = [shlex.split(line)[1:] for line in GUIDE.read_text().splitlines() if re.match(r"mim \w+ ", line)]
    ran, server = [], None
    try:
        for words in commands:
            ran.append(words[0])
            if words[0] == "serve":
                server = EmbeddedServer(words[words.index("--models") + 1], port=0)
                server.__enter__()
                with MimClient(server.address, timeout=20) as client:
                    client.wait_until_available("mim_ranker", "mim_retrieval")
                continue
            if words[0] == "run":
                words += [word for one in less for word in ("--set", one)]
            address = server.address if server else ""
            done = invoke([{"localhost:8500": address}.get(word, word) for word in words])
            if words[0] == "check":
                assert "a run would take this" in done.output
            if words[0] == "run":
                assert "auto: stage 3: batches of 256" in done.output
            if words[0] == "rank":
                assert all(item in done.output for item in ("A-3", "A-4", "A-5"))
    finally:
        if server is not None:
            server.__exit__(None, None, None)
    assert ran == ["init", "check", "run", "metrics", "serve", "rank", "similar"]
