"""One log, cut into files and shuffled in ten ways, on Beam's own runner and on Apache Flink: the same rows."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from components.engine import IN_PROCESS, OWN_RUNNER, beam_flags, many_processes, runs_here
from components.history_gen import join
from tests.components.runner import read, run_catalogue, run_histories, run_impressions, run_pairs

WAYS = range(10)
ITEMS, ROWS = 30, 900


@pytest.fixture(scope="module")
def log() -> pa.Table:
    """Few users, items and seconds, so that rows tie in all ways; one user has half of them; some rows are bad."""
    rng = np.random.default_rng(5)
    user = np.where(rng.random(ROWS) < 0.5, 0, rng.integers(1, 25, ROWS))
    item = rng.integers(0, ITEMS + 1, ROWS)  # the last is not in the catalogue
    return pa.table(
        {
            "user_id": [f"u{n}" for n in user],
            "item_id": [f"i{n}" for n in item],
            "timestamp": 1_700_000_000 + rng.integers(0, 300, ROWS),
            "clicked": rng.integers(0, 2, ROWS),
            "sequence": rng.integers(0, 2, ROWS),
        }
    )


def write(log: pa.Table, folder: Path, way: int) -> Path:
    """The rows in another order and in other files; the catalogue too."""
    rng = np.random.default_rng(way)
    shuffled = log.take(rng.permutation(len(log)))
    cuts = sorted({0, len(log), *rng.integers(1, len(log), way).tolist()})
    (folder / "impressions").mkdir(parents=True)
    for place, (begin, end) in enumerate(itertools.pairwise(cuts)):
        part = shuffled.slice(begin, end - begin)
        if way % 2:
            pyarrow.csv.write_csv(part, folder / "impressions" / f"{place}.csv")
        else:
            pq.write_table(part, folder / "impressions" / f"{place}.parquet")
    numbers = rng.permutation(ITEMS)
    items = pa.table({"item_id": [f"i{n}" for n in numbers], "title": [f"item {n}" for n in numbers]})
    pq.write_table(items, folder / "items.parquet")
    return folder


def rows_of(artifact: Any, splits: tuple[str, ...]) -> Counter[str]:
    """All rows, in no order."""
    return Counter(json.dumps([split, row], sort_keys=True) for split in splits for row in read(artifact, split))


def made(data: Path, out: Path, args: tuple[str, ...], by: str) -> tuple[Counter[str], Counter[str], Any]:
    """Ranking examples, pairs, and the account of the impressions."""
    items = run_catalogue(data, out)
    split = json.dumps({"by": by, "fractions": [0.7, 0.1, 0.2], "new_items": 0})
    impressions = run_impressions(data, out, items, args, split=split)
    examples = run_histories(data, out, impressions, args)
    pairs = run_pairs(data, out, items, impressions, args, max_per_user=7)
    everywhere = rows_of(examples, ("train", "valid", "test")), rows_of(pairs, ("train", "valid"))
    return *everywhere, json.loads(impressions.get_string_custom_property("counts"))


@pytest.fixture(scope="module", params=["time", "user"])
def expected(request: Any, log: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("expected")
    found = made(write(log, folder / "data", 0), folder, IN_PROCESS, request.param)
    assert sum(found[0].values()) == found[2]["rows out"] < ROWS
    assert found[1]
    return request.param, found


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the user who has half of them go their own way."""
    monkeypatch.setattr(join, "BUSY_ROWS", 100)


def same_in_all_ways(log: pa.Table, folder: Path, expected: Any, args: tuple[str, ...], ways: Any) -> None:
    by, found = expected
    for way in ways:
        assert made(write(log, folder / f"data{way}", way), folder / f"{way}", args, by) == found, f"way {way}"


def test_other_files_and_another_order(log: pa.Table, tmp_path: Path, expected: Any, busy: None) -> None:
    ways = [way for way in WAYS if (way < 5) == (expected[0] == "time")]
    same_in_all_ways(log, tmp_path, expected, IN_PROCESS, ways)


def test_flink_makes_the_same_rows(
    log: pa.Table, tmp_path: Path, expected: Any, busy: None, flink: tuple[str, ...]
) -> None:
    same_in_all_ways(log, tmp_path, expected, flink, [9])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["in process", "Flink"])
def test_all_ten_ways(
    log: pa.Table, tmp_path: Path, expected: Any, busy: None, flink: tuple[str, ...], engine: str
) -> None:
    same_in_all_ways(log, tmp_path, expected, flink if engine == "Flink" else IN_PROCESS, WAYS)


def test_flags_say_where_the_work_runs() -> None:
    remote = ("--runner=FlinkRunner", "--flink_master=flink:8081")
    assert runs_here(IN_PROCESS)
    assert not runs_here(remote)
    assert not many_processes(IN_PROCESS)
    assert many_processes(("--direct_running_mode=multi_processing", "--direct_num_workers=2"))
    assert many_processes(remote)
    assert not many_processes(("--runner=FlinkRunner", "--environment_type=LOOPBACK"))
    assert beam_flags(IN_PROCESS) == [*IN_PROCESS, OWN_RUNNER, "--sdk_container_image=none"], (
        "TFX packs nothing that nobody unpacks, and Beam downloads no runner"
    )
    assert beam_flags(("--runner=DirectRunner",)) == ["--runner=DirectRunner", "--sdk_container_image=none"]
    assert beam_flags(remote) == list(remote), "workers elsewhere need TFX"
    own = (*remote, "--setup_file=./setup.py")
    assert beam_flags(own) == list(own)
