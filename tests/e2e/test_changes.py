"""Settings, data and code change at random on one root: each run leaves there what a fresh root would hold."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.examples import read_split
from components.history_gen import join
from tests.conftest import TINY_CONFIG
from tfx_pipeline import fingerprints
from tfx_pipeline.fingerprints import PACKAGES, PROJECT
from tfx_pipeline.importers.sample import SampleSize, generate_sample
from tfx_pipeline.runners import local
from tfx_pipeline.runners.lineage import newest, open_store
from tfx_pipeline.settings import Settings

TABLES = {
    "CatalogueGen": ("items", ("train", "valid")),
    "ImpressionGen": ("impressions", ("train", "valid", "test")),
    "HistoryGen": ("examples", ("train", "valid", "test")),
    "PairGen": ("pairs", ("train", "valid")),
}
CODE, CHANGED = "components/history_gen/point_in_time.py", "(training_clicks > cold_max_clicks)"
SETTINGS: dict[str, tuple[Any, ...]] = {
    "data.split.fractions": ([0.8, 0.1, 0.1], [0.6, 0.2, 0.2]),
    "data.pairs.source": ("intents", "history"),
    "data.cold_max_clicks": (5, 1),
}


@dataclass
class Shop:
    """A root, its data and the code that it runs, each of which can change and change back.

    Attributes:
        folder: Of the data and of all roots.
        code: A copy of the project, of which fingerprints are taken.
        options: Settings and their values.
        state: Which value of each setting, of the data and of the code is the current one.
    """

    folder: Path
    code: Path
    options: dict[str, tuple[Any, ...]]
    state: dict[str, int] = field(default_factory=dict)
    fresh: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generate_sample(self.folder / "whole", SampleSize(items=40, users=30, impressions=800, intents=50), seed=3)
        self.state = dict.fromkeys((*self.options, "log", "items", "code"), 0)
        for what in ("log", "items"):
            self.write(what)

    def change(self, what: str) -> None:
        """The other value of one of them."""
        self.state[what] = 1 - self.state[what]
        if what in ("log", "items"):
            self.write(what)

    def write(self, what: str) -> None:
        """A log with broken rows or without some; a catalogue in which items are named otherwise, or are gone."""
        name = {"log": "impressions"}.get(what, what)
        table, other = pq.read_table(self.folder / f"whole/{name}.parquet"), self.state[what] == 1
        if what == "log":
            clicked = table["clicked"].to_pylist()
            broken = pa.array([7, *clicked[1:]] if other else clicked)
            table = table.set_column(table.column_names.index("clicked"), "clicked", broken).slice(0, 800 - 100 * other)
        elif other:
            titles = pc.binary_join_element_wise(table["title"], "again", " ")
            table = table.set_column(table.column_names.index("title"), "title", titles).slice(2)
        (self.folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, self.folder / f"data/{name}.parquet")
        if what == "items":
            shutil.copy(self.folder / "whole/intents.parquet", self.folder / "data/intents.parquet")

    def run(self, root: Path, data_only: bool) -> None:
        """Runs with the current state."""
        config = self.folder / "config.yaml"
        config.write_text(TINY_CONFIG)
        chosen = [f"{name}={json.dumps(values[self.state[name]])}" for name, values in self.options.items()]
        source = (PROJECT / CODE).read_text()
        assert CHANGED in source
        changed = source.replace(CHANGED, "(training_clicks > 3 + cold_max_clicks)")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fingerprints, "PROJECT", self.code)
            (self.code / CODE).write_text(changed if self.state["code"] else source)
            if self.state["code"]:  # what the changed file says
                patch.setattr(join, "segments", lambda n, cold, limit: (n > 3 + cold) * 1 + (n > max(limit, cold)))
            fingerprints.code_fingerprint.cache_clear()
            local.run(Settings.load(config, chosen), str(self.folder / "data"), str(root), data_only)
        fingerprints.code_fingerprint.cache_clear()

    def differences(self, root: Path, look: Callable[[Path], dict[str, Any]], data_only: bool) -> list[str]:
        """Names of what a root holds otherwise than a fresh one."""
        key = json.dumps(self.state)
        if key not in self.fresh:
            own = self.folder / f"fresh-{len(self.fresh)}"
            self.run(own, data_only)
            self.fresh[key] = look(own)
        found, expected = look(root), self.fresh[key]
        return [name for name in {**found, **expected} if found.get(name) != expected.get(name)]


def plain(row: bytes) -> bytes:
    """A row whose features stand in one order."""
    serialised: bytes = tf.train.Example.FromString(row).SerializeToString(deterministic=True)
    return serialised


def data_of(root: Path) -> dict[str, Any]:
    """Rows, accounts and rejected rows of the newest run."""
    store, found = open_store(root), {}
    for node, (output, splits) in TABLES.items():
        made = newest(store, node, output)
        rows = [sorted(plain(row) for part, _ in read_split(made.uri, split) for row in part) for split in splits]
        found |= {node: rows, f"counts of {node}": made.custom_properties["counts"].string_value}
    rejected = root / "rejected"
    return found | {file.name: file.read_text() for file in rejected.glob("*")}


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project that a test may change."""
    copy = tmp_path / "code"
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    caches = (fingerprints.code_fingerprint, fingerprints._imports, fingerprints._tree, fingerprints._file)

    def forget() -> None:
        for cached in caches:
            cached.cache_clear()

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "_tree", fingerprints._tree.__wrapped__)
        yield copy
    forget()


@pytest.mark.slow
def test_data_after_changes(tmp_path: Path, code: Path) -> None:
    """The log changes, then a setting and the code; then all come back."""
    shop, root, seen = Shop(tmp_path, code, SETTINGS), tmp_path / "root", []

    def run(*changes: str) -> None:
        for what in changes:
            shop.change(what)
        shop.run(root, data_only=True)
        seen.append(data_of(root))

    run()
    run("log")
    run("code", "data.pairs.source")
    assert shop.differences(root, data_of, True) == []
    run("code", "data.pairs.source")
    run("log")
    assert seen[3] == seen[1]
    assert seen[4] == seen[0]
    assert "impressions.jsonl" in seen[3], "rejected rows of a step that is reused come back"
    assert "impressions.jsonl" not in seen[4]


@pytest.mark.slow
def test_data_after_random_changes(tmp_path: Path, code: Path) -> None:
    """Of `MIM_CHANGES` changes, at random, of everything; the seed is `MIM_SEED`."""
    shop, root = Shop(tmp_path, code, SETTINGS), tmp_path / "root"
    chance = random.Random(int(os.environ.get("MIM_SEED", "0")))
    shop.run(root, data_only=True)
    for _ in range(int(os.environ.get("MIM_CHANGES", "8"))):
        shop.change(what := chance.choice(list(shop.state)))
        shop.run(root, data_only=True)
        assert shop.differences(root, data_of, True) == [], f"after a change of {what}: {shop.state}"
