"""`preset: auto` follows the data, and what is set by hand is kept."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from components.contract.preview import Preview, TablePreview
from components.contract.schema import Schema
from tfx_pipeline.auto_settings import ASSUMED, DataCounts, describe
from tfx_pipeline.settings import Settings


def test_sizes_follow_the_data() -> None:
    small = Settings.load("shop", (), DataCounts(1_000, 20_000)).stages
    large = Settings.load("shop", (), DataCounts(200_000, 5_000_000)).stages
    assert (small.ciubm.id_embedding_update, large.ciubm.id_embedding_update) == ("dense", "rowwise_adagrad")
    assert small.ciubm.training.batch_size < large.ciubm.training.batch_size
    assert small.ciubm.training.epochs > large.ciubm.training.epochs
    assert small.pretrain.training.epochs > large.pretrain.training.epochs
    assert small.ciubm.interest("learned_similarity") is None
    assert large.ciubm.interest("learned_similarity") is not None
    assert small.ciubm.training.monitor == "logloss"


@pytest.mark.parametrize("items", [1, 30, 5_000, 10**7])
@pytest.mark.parametrize("impressions", [0, 500, 10**6, 10**9])
def test_any_size_gives_settings_and_reasons(items: int, impressions: int) -> None:
    counts = DataCounts(items, impressions)
    settings = Settings.load("shop", (), counts)
    assert 0 < settings.stages.ciubm.training.patience < settings.stages.ciubm.training.epochs
    assert f"about {items:,} items" in describe(counts, settings)


def test_what_is_set_by_hand_is_kept(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("preset: auto\nstages: {ciubm: {training: {epochs: 5}}}\ndata: {statistics: {enabled: false}}\n")
    found = Settings.load(own, ["stages.pretrain.training.epochs=2"], DataCounts(10, 1_000))
    assert "at most 5 epochs" in describe(DataCounts(10, 1_000), found)
    assert (found.stages.ciubm.training.epochs, found.stages.pretrain.training.epochs) == (5, 2)
    assert not found.data.statistics.enabled
    assert Settings.is_auto(own)
    assert not Settings.is_auto("sample")


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
@pytest.mark.parametrize("lines", [10, 600_000])
def test_rows_of_text_files_are_estimated_by_the_files_alone(tmp_path: Path, suffix: str, lines: int) -> None:
    rows = b"".join(b"%d,%d\n" % (n, n * 7919 % 1_000) for n in range(lines))
    file = tmp_path / f"log.csv{suffix}"
    file.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](rows))
    items = TablePreview("items", ["gs://bucket/items.csv"], rows=30, whole=False)
    found = []
    for tried in (5, 500):  # however many rows there was time for
        log = TablePreview("impressions", [str(file)], rows=tried, whole=False)
        found.append(DataCounts.of_preview(Preview("", Schema(), {"items": items, "impressions": log})))
    assert found[0] == found[1]
    assert found[0].items == ASSUMED.items  # not on this machine
    assert found[0].impressions == pytest.approx(lines, rel=0.25)
