"""A served ranker scores the day after its export as it scores that day's ranking examples."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from click.testing import CliRunner
from tfx.types import artifact_utils

from serving.client import MimClient
from serving.embedded_server.server import EmbeddedServer
from tests.components.runner import run_catalogue, run_histories, run_impressions
from tests.components.test_served_statistics import DAY, DAYS, SCHEMA, SPEC, START, write_shop
from tests.conftest import TINY_CONFIG
from tfx_pipeline.cli import main
from tfx_pipeline.runners.lineage import newest, open_store


def test_a_replayed_day_is_scored_the_same(tmp_path: Path) -> None:
    whole, before = write_shop(tmp_path / "whole", DAYS), write_shop(tmp_path / "before", DAYS - 1)
    config, root = tmp_path / "tiny.yaml", tmp_path / "run"
    # A rate at which every item ends in one direction.
    collapsing = "stages:\n  csft: {collapse_retries: 1, training: {learning_rate: 3, batch_size: 32}}"
    config.write_text(TINY_CONFIG.replace("stages:", collapsing))
    (before / "shop.yaml").write_text("items: {columns: {brand: brand, price: {type: number}, season: {type: date}}}")
    words = ["run", "--config", str(config), "--data", str(before), "--root", str(root)]
    words += ["--set", "data.statistics.enabled=true", "--set", "evaluation.ids_only_comparison=false"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output[-3_000:]
    (outcome,) = root.glob("artifacts/Trainer.csft/model_run/*/logs/recall.json")
    assert json.loads(outcome.read_text())["rejected"].startswith("stage 2 must keep the mean cosine")
    assert "the encoder of stage 1 is kept" in done.output
    assert "attempt 2 of 2" in done.output
    store = open_store(root)
    for output in ("examples", "statistics_table"):  # both are Examples, and either may be the newer one
        made = newest(store, "HistoryGen", output)
        assert made is not None
        assert f"/HistoryGen/{output}/" in made.uri

    items = run_catalogue(whole, tmp_path / "out", schema=SCHEMA.to_json())
    impressions = run_impressions(whole, tmp_path / "out", items, schema=SCHEMA.to_json())
    options = {"history_length": 50, "schema": SCHEMA.to_json(), "statistics_spec": SPEC}
    examples = run_histories(whole, tmp_path / "out", impressions, items=items, **options)
    by_request = defaultdict(list)
    for file in tf.io.gfile.glob(f"{artifact_utils.get_split_uri([examples], 'test')}/*"):
        for record in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            if feature["timestamp"].int64_list.value[0] >= START + (DAYS - 1) * DAY:
                history = tuple(feature["history_item_ids"].bytes_list.value)
                ages = tuple(feature["history_ages"].int64_list.value)
                request = (feature["user_id"].bytes_list.value[0], history, ages)
                by_request[request].append((feature["item_id"].bytes_list.value[0], record))
    assert len(by_request) > 200
    with EmbeddedServer(root / "models", port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available("mim_ranker")
        differs = False
        for (user, history, ages), rows in list(by_request.items())[:200]:
            records = np.array([record for _, record in rows], object)
            expected = client.predict("mim_ranker", "serve_examples", {"examples": records})["ctr"]
            asked = [item.decode() for item, _ in rows]
            found = client.rank(user.decode(), [one.decode() for one in history], asked, list(ages))
            scores = {one.item_id: one.score for one in found}
            np.testing.assert_allclose([scores[item] for item in asked], expected, atol=1e-6)
            # And the statistics count.
            other = client.rank("somebody else", [one.decode() for one in history], asked, list(ages))
            differs |= any(abs(one.score - scores[one.item_id]) > 1e-4 for one in other)
        assert differs
