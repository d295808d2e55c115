"""A shop's own export, of any habit, to a trained and served ranker, without a script of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.client import MimClient, SignatureError
from serving.embedded_server.server import EmbeddedServer
from tests.components.exports import EXPORTS
from tests.conftest import TINY_CONFIG
from tfx_pipeline.cli import main

CANDIDATES = {"requests": ["10001", "10002"], "german": ["A-1", "A-2"], "nested": ["6800000000001", "6800000000002"]}
CONTEXT = {"requests": {"device": "app"}, "german": {}, "nested": {}}


@pytest.mark.parametrize("name", EXPORTS)
def test_init_run_rank(name: str, tmp_path: Path) -> None:
    export = EXPORTS[name](tmp_path / "shop", users=60, impressions=4_000)
    data, root, config = tmp_path / "shop", tmp_path / "run", tmp_path / "tiny.yaml"
    # Sixteen different contents in all: there is little to tell apart.
    config.write_text(TINY_CONFIG.replace("stages:", "stages:\n  csft: {collapse_threshold: 1}"))
    for words in (
        ["init", "--items", str(export.items), f"--{export.kind}", str(export.log)],
        ["run", "--config", str(config), "--data", str(data), "--root", str(root)],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output[-3_000:]
    with EmbeddedServer(root / "models", port=0) as server, MimClient(server.address) as client:
        client.wait_until_available("mim_ranker")
        context = CONTEXT[name]
        found = client.rank("u", CANDIDATES[name][:1], CANDIDATES[name], context=context)
        assert {one.item_id for one in found} == set(CANDIDATES[name])
        assert all(0 < one.score < 1 for one in found)
        if context:
            with pytest.raises(SignatureError, match="device"):
                client.rank("u", [], CANDIDATES[name])
