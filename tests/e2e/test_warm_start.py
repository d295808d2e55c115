"""A day later: new items, new rows; the encoder is kept, only what is new is encoded, the ranker learns on."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from serving.releases import ReleaseStore
from serving.representation_center.snapshot import Snapshot
from tests.conftest import Run
from tests.e2e.test_pipeline import folder
from tfx_pipeline.cli import main
from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import executions
from tfx_pipeline.settings import Settings

NEW = 3


def a_day_later(run: Run, to: Path) -> Path:
    """The shop with three more items, one with another title, and the rows of a further day."""
    to.mkdir()
    items = pq.read_table(run.data / "items.parquet").to_pylist()
    changed, *_ = items
    changed["title"] = f"{changed['title']} again"
    items += [{**items[n], "item_id": f"new{n}", "title": f"{items[n]['title']} new"} for n in range(NEW)]
    pq.write_table(pa.Table.from_pylist(items), to / "items.parquet")
    rows = pq.read_table(run.data / "impressions.parquet")
    last = max(rows["timestamp"].to_pylist())
    later = [
        {**row, "timestamp": last + 60 + n, "item_id": f"new{n % NEW}"} for n, row in enumerate(rows.to_pylist()[:300])
    ]
    pq.write_table(
        pa.concat_tables([rows, pa.Table.from_pylist(later, schema=rows.schema)]), to / "impressions.parquet"
    )
    return to


def test_a_warm_start(tiny_run: Run, tmp_path: Path) -> None:
    root = tiny_run.root
    released = ReleaseStore(tiny_run.root).current()
    assert released is not None
    before = Snapshot.load(folder(tiny_run, "EmbeddingExporter", "embeddings"))
    seen = len(executions(root))
    settings = Settings.load(tiny_run.config, ["warm_start=true", "evaluation.ids_only_comparison=false"])
    local.run(settings, str(a_day_later(tiny_run, tmp_path / "data")), str(tiny_run.root))
    ran = {node for node, _ in executions(root)[seen:]}
    assert {"LastEncoder", "LastSnapshot", "LastRanker"} <= ran
    assert not {"Trainer.pretrain", "Trainer.csft"} & ran

    embeddings = folder(tiny_run, "EmbeddingExporter", "embeddings")
    after = Snapshot.load(embeddings)
    assert after.manifest.encoder_version == before.manifest.encoder_version
    assert len(after.item_ids) == len(before.item_ids) + NEW
    figures = json.loads((folder(tiny_run, "ReportGen", "report") / "figures.json").read_text())
    assert figures["metrics"]["embeddings"]["contents encoded"] == NEW + 1, "what is new or changed, and nothing else"
    log = (tiny_run.root / "run.log").read_text()
    assert "starts from the last ranker, which knew" in log
    now = ReleaseStore(tiny_run.root).current()
    assert now is not None
    assert now.version > released.version
    assert now.sources["encoder"] == released.sources["encoder"]
    assert now.sources["ranker"] != released.sources["ranker"]


def test_schemas_are_written_to_be_kept(tiny_run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["schema", "--root", str(tiny_run.root), "--to", str(tmp_path / "kept")])
    assert done.exit_code == 0, done.stderr
    settings = Settings.load(tiny_run.config, [f"data.schema={tmp_path / 'kept'}"])
    assert "infinity_norm" in settings.data.kept_schema("items")
    assert 'name: "clicked"' in settings.data.kept_schema("examples")

    shop = a_day_later(tiny_run, tmp_path / "data")
    items = pq.read_table(shop / "items.parquet")
    pq.write_table(items.drop_columns("category"), shop / "items.parquet")
    ask = ["run", "--config", str(tiny_run.config), "--data", str(shop), "--root", str(tmp_path / "root")]
    stopped = CliRunner().invoke(main, [*ask, "--set", f"data.schema={tmp_path / 'kept'}"])
    assert stopped.exit_code == 1
    assert "items: the data are not what the schema expects" in stopped.stderr
    assert "category: " in stopped.stderr
    assert "Trainer.pretrain" not in stopped.stderr, "nothing is learned from them"
