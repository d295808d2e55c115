"""What several tests share: a small shop, and one run of the whole pipeline over it; how they share the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several pytest processes run beside each other: two TensorFlows with a thread a core take turns of all cores, and
    # each is four times slower for it.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np
import pytest

import components  # noqa: F401  before TensorFlow, as everywhere
from tfx_pipeline.importers.sample import SampleSize, generate_sample
from tfx_pipeline.settings import Settings

SMALL = SampleSize(items=160, users=120, impressions=6_000, intents=300)
TINY_CONFIG = """
preset: tiny
name: tiny
stages:
  ciubm: {training: {epochs: 1, batch_size: 256, jit_compile: false}}
evaluation: {min_auc: 0.3, max_auc_drop: 0.2, min_examples: 10, must_beat_baselines: false}
"""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look at the one run of the pipeline stay in one process, so that it is made once."""
    for item in items:
        if "tiny_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("tiny_run"))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated shop."""
    folder = tmp_path_factory.mktemp("shop")
    generate_sample(folder, SMALL, seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY_CONFIG)
    return path


@dataclass(frozen=True)
class Run:
    """A finished run: where it wrote, and the nodes' times."""

    root: Path
    data: Path
    config: Path
    first: object


@pytest.fixture(scope="session")
def tiny_run(shop: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole pipeline, once, for every test that looks at what it made."""
    from tfx_pipeline.runners import local

    root = tmp_path_factory.mktemp("run")
    times = local.run(Settings.load(tiny_config), str(shop), str(root))
    return Run(root, shop, tiny_config, times)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
