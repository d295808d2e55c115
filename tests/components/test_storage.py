"""Components whose artifacts lie on an object store make what they make on a local disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tfx.dsl.io import fileio
from tfx.dsl.io.filesystem import NotFoundError
from tfx.types import standard_artifacts

from components.contract.counts import COUNTS_FILE
from components.contract.tables import ContractError
from components.storage import LocalCopy, StagingArea, on_local_disk, staging_area
from serving.storage import as_path, find, write_text
from tests.components import runner
from tests.components.test_contract import impression, write_impressions
from tests.object_stores import bucket


@pytest.fixture
def top() -> Any:
    with bucket("memory") as address:
        yield address


def rows_of(made: Any) -> dict[str, list[str]]:
    local = standard_artifacts.Examples()
    local.copy_from(made)
    local.uri = staging_area().fetch(made.uri) if "://" in made.uri else made.uri
    return {
        split: sorted(repr(sorted(row.items())) for row in runner.read(local, split)) for split in ("train", "valid")
    }


def test_data_components(shop: Path, tmp_path: Path, top: str) -> None:
    def make(out: Any) -> list[Any]:
        items = runner.run_catalogue(shop, out)
        impressions = runner.run_impressions(shop, out, items)
        return [
            items,
            impressions,
            runner.run_histories(shop, out, impressions),
            runner.run_pairs(shop, out, items, impressions),
        ]

    for here, there in zip(make(tmp_path), make(as_path(f"{top}/run")), strict=True):
        assert there.uri.startswith("memory://")
        assert rows_of(here) == rows_of(there)
        name = there.uri.rsplit("/", 1)[1]
        assert {file.split("/")[0] for file in find(as_path(there.uri))} >= {"Split-train", "Split-valid"}
        if name in ("items", "impressions"):
            assert (tmp_path / name / COUNTS_FILE).read_text() == (as_path(there.uri) / COUNTS_FILE).read_text()


def test_rejected_rows_are_part_of_the_artifact_and_kept_where_a_run_stops(tmp_path: Path, top: str) -> None:
    write_impressions(tmp_path, [impression(n, **({"user_id": ""} if n < 3 else {})) for n in range(60)])
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},t\n" for n in range(5)))
    out = as_path(f"{top}/run")
    items = runner.run_catalogue(tmp_path, out)
    made = runner.run_impressions(tmp_path, out, items)
    assert len((as_path(made.uri) / "rejected/impressions.jsonl").read_text().splitlines()) == 3
    assert not (out / "rejected").exists()
    with pytest.raises(ContractError, match=f"rows: {out}/rejected/impressions.jsonl"):
        runner.run_impressions(
            tmp_path, as_path(f"{top}/other"), items, max_rejected_fraction=0.01, rejected_folder=str(out / "rejected")
        )
    assert len((out / "rejected/impressions.jsonl").read_text().splitlines()) == 3
    assert find(as_path(f"{top}/other")) == {}  # nothing of an execution that failed


class _Executor:
    def __init__(self, *flags: str) -> None:
        self._beam_pipeline_args = flags
        self.seen: list[str] = []

    @on_local_disk
    def Do(self, inputs: Any, outputs: Any, properties: Any) -> None:
        self.seen = [inputs["in"][0].uri, outputs["out"][0].uri]
        if properties.get("fails"):
            raise RuntimeError("no")
        outputs["out"][0].set_string_custom_property("from", inputs["in"][0].uri + "/x")
        outputs["out"][0].set_int_custom_property("n", 3)
        if "://" not in self.seen[1]:
            (Path(self.seen[1]) / "f").write_text((Path(self.seen[0]) / "x").read_text() + "!")


def test_the_local_folders_last_while_the_executor_runs(top: str, tmp_path: Path) -> None:
    given, made = standard_artifacts.Model(), standard_artifacts.Model()
    given.uri, made.uri = f"{top}/in", f"{top}/out"
    write_text(as_path(f"{top}/in/x"), "one")
    write_text(as_path(f"{top}/out/old"), "of another execution")
    one = _Executor()
    with pytest.raises(RuntimeError):
        one.Do({"in": [given]}, {"out": [made]}, {"fails": True})
    assert list(find(as_path(made.uri))) == ["old"]
    one.Do({"in": [given]}, {"out": [made]}, {})
    assert all("://" not in uri for uri in one.seen)
    assert (given.uri, made.uri) == (f"{top}/in", f"{top}/out")
    assert made.get_string_custom_property("from") == f"{top}/in/x"
    assert {name: (as_path(made.uri) / name).read_text() for name in find(as_path(made.uri))} == {"f": "one!"}
    write_text(as_path(f"{top}/in/x"), "another")  # the copy is made again
    one.Do({"in": [given]}, {"out": [made]}, {})
    assert (as_path(made.uri) / "f").read_text() == "another!"

    workers = _Executor("--runner=FlinkRunner")  # read and write by themselves
    workers.Do({"in": [given]}, {"out": [made]}, {})
    assert workers.seen == [given.uri, made.uri]


def test_state_that_outlives_an_execution(top: str, tmp_path: Path) -> None:
    first = LocalCopy(as_path(f"{top}/state"))
    write_text(as_path(first.folder / "a/b"), "1")
    first.publish()
    fresh = StagingArea(str(tmp_path))  # of another process
    assert (Path(fresh.fetch(f"{top}/state")) / "a/b").read_text() == "1"
    first.delete()
    assert find(as_path(f"{top}/state")) == {}
    assert not first.folder.exists()
    local = LocalCopy(as_path(tmp_path / "here"))
    assert local.folder == tmp_path / "here"
    local.publish()


def test_tfx_reads_and_writes_object_stores(top: str) -> None:
    with fileio.open(f"{top}/a/f", "w") as handle:
        handle.write("x")
    fileio.copy(f"{top}/a/f", f"{top}/a/g")
    with pytest.raises(OSError, match="is there already"):
        fileio.copy(f"{top}/a/f", f"{top}/a/g")
    fileio.rename(f"{top}/a/g", f"{top}/a/h")
    assert fileio.exists(f"{top}/a/h")
    assert not fileio.exists(f"{top}/a/g")
    assert fileio.isdir(f"{top}/a")
    assert sorted(fileio.listdir(f"{top}/a")) == ["f", "h"]
    assert fileio.glob(f"{top}/a/*") == [f"{top}/a/f", f"{top}/a/h"]
    assert list(fileio.walk(f"{top}/a")) == [(f"{top}/a", [], ["f", "h"])]
    with fileio.open(f"{top}/a/f") as handle:
        assert handle.read() == "x"
    fileio.makedirs(f"{top}/b/c")
    fileio.rmtree(f"{top}/a")
    assert not fileio.exists(f"{top}/a")
    with pytest.raises(NotFoundError):
        fileio.remove(f"{top}/a/f")
