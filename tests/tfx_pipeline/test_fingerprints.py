"""Fingerprints change with what a step runs and reads, and with nothing else."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.contract.schema import Schema
from tfx_pipeline import fingerprints
from tfx_pipeline.fingerprints import PACKAGES, PROJECT, code_fingerprint, data_fingerprint, imported_modules

STEPS = {
    "transform": ("tfx_pipeline.preprocessing",),
    "evaluator": ("tfx_pipeline.evaluation",),
    "pretrain": ("tfx_pipeline.run_fns.pretrain", "components.stage_trainer.executor"),
    "csft": ("tfx_pipeline.run_fns.csft", "components.stage_trainer.executor"),
    "ciubm": ("tfx_pipeline.run_fns.ciubm", "components.stage_trainer.executor"),
    "pairs": ("components.pair_gen.executor",),
    "exporter": ("components.embedding_exporter.executor",),
    "index": ("components.retrieval_index.executor",),
    "report": ("components.report_gen.executor",),
    "catalogue": ("components.catalogue_gen.executor",),
}
CACHES: tuple[Callable[..., object], ...] = (
    fingerprints.code_fingerprint,
    fingerprints._imports,
    fingerprints._tree,
    fingerprints._file,
)


def _all(*forget: Callable[..., object]) -> dict[str, str]:
    for cached in forget:
        cached.cache_clear()  # type: ignore[attr-defined]
    return {name: code_fingerprint(*modules) for name, modules in STEPS.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the project that a test may change, and its fingerprints."""
    copy = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "PROJECT", copy)
        yield copy, _all(*CACHES)
    for cached in CACHES:
        cached.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tfx_pipeline/preprocessing.py", {"transform", "evaluator", "ciubm"}),
        ("mim_keras/metrics/gauc.py", {"evaluator", "ciubm", "report"}),
        ("components/history_gen/point_in_time.py", {"pairs", "evaluator", "ciubm", "report"}),
        ("mim_keras/serving/warmup.py", {"pretrain", "csft", "ciubm", "index"}),
        ("components/report_gen/page.html", {"report"}),
        ("components/stage_trainer/executor.py", {"pretrain", "csft", "ciubm"}),
        ("mim_keras/models/csft.py", {"csft"}),
        ("mim_keras/layers/sim_tier.py", {"ciubm"}),
        ("serving/client.py", set()),
        ("tfx_pipeline/cli.py", set()),
    ],
)
def test_a_change_reaches_the_steps_that_run_it_alone(
    project: tuple[Path, dict[str, str]], file: str, changes: set[str]
) -> None:
    copy, before = project
    text = (copy / file).read_text()
    (copy / file).write_text(f"{text}\n\n")  # no other imports, so that those are read once
    after = _all(fingerprints.code_fingerprint)
    (copy / file).write_text(text)
    assert {name for name in STEPS if before[name] != after[name]} == changes


def test_versions_of_other_packages_count(
    project: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = project
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "keras-rs" else real(name))
    after = _all(fingerprints.code_fingerprint)
    assert {name for name in STEPS if before[name] != after[name]} == {"csft", "ciubm"}
    fingerprints.code_fingerprint.cache_clear()


def test_names_are_followed_to_their_modules() -> None:
    own, others = imported_modules("mim_keras.models.ciubm")
    assert "mim_keras.layers.cross_deep_head" in own
    assert "mim_keras.models.csft" not in own
    assert "keras" in others
    with pytest.raises(ModuleNotFoundError, match="nothing is not a module of this project"):
        imported_modules("mim_keras.nothing")


def test_data_count_with_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,image_path\na,mug,pictures/a.jpg\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(b"one")

    def found(*tables: str) -> str:
        return data_fingerprint(str(tmp_path), Schema(), *tables)

    items, log = found("items"), found("impressions")
    assert found("items") == items
    (tmp_path / "notes.txt").write_text("no table")
    assert found("items") == items
    (tmp_path / "pictures/a.jpg").write_bytes(b"other")
    assert found("items") != items
    assert found("impressions") == log
