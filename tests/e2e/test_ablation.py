"""The ablation on a small shop: what a run trains, with other settings, and nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from click.testing import CliRunner

from components.examples import read_split
from tfx_pipeline.ablation.evaluate import COLUMNS, Rows, figures
from tfx_pipeline.cli import main
from tfx_pipeline.runners.lineage import executions, newest, open_store


def test_ablate_measures_the_grid_and_resumes(shop: Path, tiny_config: Path, tmp_path: Path) -> None:
    words = ["ablate", "--config", str(tiny_config), "--data", str(shop), "--root", str(tmp_path), "--json"]
    sets = ["data.split.new_items=5", "data.statistics.enabled=true", "stages.ciubm.training.epochs=2"]
    sets += ["stages.pretrain.trainable=head", "stages.csft.trainable=head"]
    words += ["--seeds", "1", *(word for one in sets for word in ("--set", one)), "--variants"]
    first = CliRunner().invoke(main, [*words, "ids,full"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["reference"] == "ids"
    rows = {(row["variant"], row["slice"], row["figure"]): row for row in found["rows"]}
    assert rows["full", "new", "gauc"]["seeds"] == 1
    assert rows["full", "all", "auc"]["difference"] is not None
    own = found["results"]["full"]["1"]
    counts = own["test"]
    assert counts["new"]["rows"] + counts["known"]["rows"] == counts["all"]["rows"]
    assert 0.3 < counts["all"]["auc"] < 1
    assert "| as configured | 1 |" in (tmp_path / "ablation.md").read_text()
    for cut in ("popularity", "age"):
        parts = own[cut]
        assert parts["all"] == counts["all"]
        assert sum(one["rows"] for name, one in parts.items() if name != "all") == counts["all"]["rows"]
        assert {row["slice"] for row in found[cut]} == set(parts)
    assert {row["variant"] for row in found["content"]} == {"full"}
    assert {"picture to words", "intents"} <= set(own["content"])
    # stage 2 asks frozen towers for the queries alone: stage 1 has asked them for the items
    assert re.search(r"features: 160 of \d{3} contents", (tmp_path / "run.log").read_text())
    check_that_the_served_ranker_was_measured(tmp_path, own)

    trained = executions(tmp_path).count(("Trainer.ciubm", "COMPLETE"))
    assert trained == 2
    second = CliRunner().invoke(main, [*words, "hard,stages,full"])  # no pair names hard negatives
    assert second.exit_code == 0, second.output
    told = json.loads(second.stdout)
    # of one view the run's vectors are made, so that stages 1 and 2 are what is configured
    assert told["same_as"] == {"full": "stages"}
    assert told["reference"] == "stages"
    assert told["results"] == {"stages": {"1": own}, "full": {"1": own}}
    assert "no pair has any" in told["left_out"]["hard"]
    assert "Left out: stage 2 with hard negatives alone." in (tmp_path / "ablation.md").read_text()
    assert executions(tmp_path).count(("Trainer.ciubm", "COMPLETE")) == trained


def check_that_the_served_ranker_was_measured(root: Path, found: dict[str, Any]) -> None:
    """The newest ranker's SavedModel says the scores that were kept, and other ones without statistics."""
    scores = np.load(root / found["scores"])
    assert scores.dtype == np.float32
    store = open_store(root)
    model, examples = newest(store, "Trainer.ciubm", "model"), newest(store, "HistoryGen", "examples")
    assert model is not None
    assert examples is not None
    ((records, columns),) = read_split(examples.uri, "test", only=COLUMNS)
    assert figures(Rows.of(columns), scores) == found["test"]
    signature = tf.saved_model.load(f"{model.uri}/Format-Serving").signatures["serve_examples"]
    np.testing.assert_allclose(signature(examples=tf.constant(records))["ctr"].numpy().ravel(), scores, atol=1e-6)
    unknown = [without_statistics(record) for record in records]
    other = signature(examples=tf.constant(unknown))["ctr"].numpy().ravel()
    assert np.abs(other - scores).mean() > 1e-3


def without_statistics(record: bytes) -> bytes:
    """A ranking example whose statistics count nothing."""
    example = tf.train.Example.FromString(record)
    values = example.features.feature["statistics"].int64_list.value
    values[:] = [0] * len(values)
    return example.SerializeToString()
