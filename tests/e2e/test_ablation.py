"""The ablation on a small shop: the data once, the grid, and nothing twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentDataset
from mim_keras.training.feature_cache import FeatureCache
from tfx_pipeline.ablation import train
from tfx_pipeline.ablation.inputs import read_inputs
from tfx_pipeline.cli import main
from tfx_pipeline.settings import Settings


def test_ablate_measures_the_grid_and_resumes(
    shop: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ablate", "--config", str(tiny_config), "--data", str(shop), "--root", str(tmp_path)]
    words += ["--seeds", "2", "--set", "data.split.new_items=5", "--json", "--variants"]
    first = CliRunner().invoke(main, [*words, "ids,full"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["reference"] == "ids"
    rows = {(row["variant"], row["slice"], row["figure"]): row for row in found["rows"]}
    assert rows["full", "new", "gauc"]["seeds"] == 2
    assert rows["full", "all", "auc"]["interval"] is not None
    counts = found["results"]["full"]["1"]["test"]
    assert counts["new"]["rows"] + counts["known"]["rows"] == counts["all"]["rows"]
    assert 0.3 < counts["all"]["auc"] < 1
    assert "| as configured | 2 |" in (tmp_path / "ablation.md").read_text()
    for cut in ("popularity", "age"):
        parts = found["results"]["full"]["1"][cut]
        assert parts["all"] == counts["all"]
        assert sum(one["rows"] for name, one in parts.items() if name != "all") == counts["all"]["rows"]
        assert {row["slice"] for row in found[cut]} == set(parts)
    settings = Settings.load(tiny_config, ["data.split.new_items=5"])
    inputs = read_inputs(tmp_path, settings.data, settings.stages.ciubm.history_length)
    test, catalogue = inputs.splits["test"], inputs.catalogue
    again = read_inputs(tmp_path, settings.data, settings.stages.ciubm.history_length)
    assert again.fingerprint == inputs.fingerprint
    titled = replace(inputs, catalogue=replace(catalogue, title=catalogue.title[::-1]))
    judged = replace(inputs, splits={**inputs.splits, "test": replace(test, label=1 - test.label)})
    assert len({one.fingerprint for one in (inputs, titled, judged)}) == 3
    files = sorted((tmp_path / "ablation").glob("*.json"))
    assert len(files) == 4
    for file in files:
        scores = np.load(file.with_suffix(".npy"))
        assert scores.dtype == np.float32
        assert train.figures(test, scores) == json.loads(file.read_text())["test"]

    measured: list[str] = []
    measure = train.Bench.measure
    monkeypatch.setattr(
        train.Bench,
        "measure",
        lambda self, variant, seed: measured.append(variant.says) or measure(self, variant, seed),
    )
    second = CliRunner().invoke(main, [*words, "ids,full,stage1,stages"])
    assert second.exit_code == 0, second.output
    assert set(measured) == {"+ stage 1"}
    # of one view the run's vectors are made, so that stages 1 and 2 are what is configured
    told = json.loads(second.stdout)
    assert told["same_as"] == {"stages": "full"}
    assert told["results"]["stages"] == told["results"]["full"]
    assert {name: told["results"][name] for name in ("ids", "full")} == found["results"]
    encoders = list((tmp_path / "ablation/encoders").glob("*/*"))
    assert len(encoders) == 6  # as it comes, stage 1, stage 2, for each of two seeds

    measured.clear()
    without = CliRunner().invoke(main, [*words, "hard,ids"])  # pairs from histories name no hard negatives
    assert without.exit_code == 0, without.output
    told = json.loads(without.stdout)
    assert measured == ["stage 2 with hard negatives alone"]
    assert list(told["results"]) == ["ids"]
    assert "no pair has any" in told["left_out"]["hard"]
    assert "Left out: stage 2 with hard negatives alone." in (tmp_path / "ablation.md").read_text()

    measured.clear()
    other = ["--seeds", "1", "--variants", "ids", "--set", "data.pairs.max_per_user=2"]
    third = CliRunner().invoke(main, [*words[:-1], *other])
    assert third.exit_code == 0, third.output
    assert len(measured) == 1  # other pairs are other data, though the rows are the same


def test_the_best_epoch_is_kept_and_frozen_towers_speak_once(
    shop: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    compute = FeatureCache.get_or_compute

    def counted(self: FeatureCache, content: ContentDataset, encoder: ItemEncoder) -> dict[str, np.ndarray]:
        asked.append(len(content))
        return compute(self, content, encoder)

    monkeypatch.setattr(FeatureCache, "get_or_compute", counted)
    words = ["ablate", "--config", str(tiny_config), "--data", str(shop), "--root", str(tmp_path), "--json"]
    words += ["--seeds", "2", "--variants", "raw,full"]
    sets = ["pretrain.trainable=head", "csft.trainable=head", "ciubm.training.epochs=6", "ciubm.training.patience=6"]
    sets += ["ciubm.training.learning_rate=0.5"]  # so large that the last epoch is not the best
    done = CliRunner().invoke(main, [*words, *(word for one in sets for word in ("--set", f"stages.{one}"))])
    assert done.exit_code == 0, done.output
    assert len(asked) == 2  # drawn towers: once a seed
    epochs = [float(found) for found in re.findall(r"ciubm epoch .*val_gauc (\S+)", (tmp_path / "run.log").read_text())]
    own = [epochs[begin : begin + 6] for begin in range(0, len(epochs), 6)]
    results = json.loads(done.stdout)["results"]
    runs = [results[name][seed] for seed in ("1", "2") for name in ("raw", "full")]
    for run, curve in zip(runs, own, strict=True):
        assert run["valid"]["all"]["gauc"] == pytest.approx(max(curve), abs=6e-5)
    assert results["raw"]["1"] != results["raw"]["2"]
    assert any(max(curve) > curve[-1] for curve in own)
