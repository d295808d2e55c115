"""One ranked answer from the served models, for people who just ran the pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from upath import UPath

from serving.client import ENCODER, RANKER, RETRIEVAL, MimClient
from tfx_pipeline.runners.root import Root

CANDIDATES, HISTORY = 10, 8


def show_one_ranking(data: Path, root: UPath) -> None:
    """Starts `mim serve` on the models of `root`, ranks items of `data` for one of its users, prints the answer.

    Raises:
        RuntimeError: the server did not start; its output is in `serve.log`.
    """
    log = Root(root).state / "serve.log"
    command = [sys.executable, "-m", "tfx_pipeline.cli", "serve", "--models", str(root / "models"), "--port", "0"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stderr=output, stdout=output)
    try:
        with MimClient(_address(server, log), timeout=10) as client:
            versions = client.wait_until_available(ENCODER, RANKER, RETRIEVAL)
            _print_ranking(client, data, versions)
    finally:
        server.terminate()
        server.wait(timeout=20)


def _address(server: subprocess.Popen, log: Path, seconds: float = 90.0) -> str:
    """What the server says it listens on."""
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("serving "):
                return line.rsplit(" ", 1)[1]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the embedded server did not start; see {log}")


def _print_ranking(client: MimClient, data: Path, versions: dict[str, int]) -> None:
    impressions = pq.read_table(data / "impressions.parquet").to_pandas()
    items = pq.read_table(data / "items.parquet", columns=["item_id", "title", "created_at"]).to_pandas()
    titles = dict(zip(items["item_id"], items["title"].fillna("(no title)"), strict=True))
    clicked = impressions[impressions["clicked"] == 1]
    user = clicked["user_id"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index[20]
    own = clicked[clicked["user_id"] == user].sort_values("timestamp").tail(HISTORY)
    now = int(impressions["timestamp"].max())
    unseen = items[~items["item_id"].isin(impressions[impressions["user_id"] == user]["item_id"])]
    newest = unseen.sort_values("created_at", ascending=False, kind="stable").head(CANDIDATES // 2)
    others = unseen.drop(newest.index).sample(CANDIDATES - len(newest), random_state=np.random.RandomState(1))
    candidates = [*newest["item_id"], *others["item_id"]]
    ages = [now - int(t) for t in own["timestamp"]]
    ranked = client.rank(user, list(own["item_id"]), candidates, ages)

    console = Console()
    console.print(f"\n[bold]{user}[/bold] clicked, most recent last: " + "; ".join(titles[i] for i in own["item_id"]))
    table = Table(title=f"ranked by mim_ranker version {versions[RANKER]}", title_justify="left", box=None)
    for name, side in (("", "right"), ("item", "left"), ("title", "left"), ("ctr", "right"), ("", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    fresh = set(newest["item_id"])
    for place, scored in enumerate(ranked, 1):
        note = "new" if scored.item_id in fresh else ""
        table.add_row(str(place), scored.item_id, titles[scored.item_id], f"{scored.score:.4f}", note)
    console.print(table)
