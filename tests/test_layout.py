"""Rules that hold for the whole source: who may import whom, and which Keras."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
OURS = ("mim_keras", "components", "tfx_pipeline", "serving")
MAY_IMPORT = {
    "mim_keras": set(),
    "serving": set(),
    "components": {"mim_keras", "serving.representation_center", "serving.releases", "serving.storage"},
    "tfx_pipeline": {"mim_keras", "components", "serving"},
}
FORBIDDEN = {"mim_keras": ("tfx", "apache_beam", "tensorflow_transform"), "serving": ("tfx", "apache_beam", "keras")}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", OURS)
def test_dependencies_run_one_way(package: str) -> None:
    for path in (PROJECT / package).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            if top in OURS and top != package:
                assert any(name == ok or name.startswith(ok + ".") for ok in MAY_IMPORT[package]), (
                    f"{path} imports {name}"
                )
            assert top not in FORBIDDEN.get(package, ()), f"{path} imports {name}"


LAYERS_OF_MIM_KERAS = (  # each imports only those before it
    ("mim_keras.config",),
    ("mim_keras.ops",),
    ("mim_keras.layers", "mim_keras.losses", "mim_keras.optimizers"),
    ("mim_keras.preprocessing",),
    ("mim_keras.models",),
    ("mim_keras.metrics",),
    ("mim_keras.training",),
    ("mim_keras.serving",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS_OF_MIM_KERAS) for package in packages}


def test_mim_keras_imports_downwards() -> None:
    for package, level in LEVEL.items():
        for path in (PROJECT / package.replace(".", "/")).rglob("*.py"):
            for name in imports(path):
                other = ".".join(name.split(".")[:2])
                assert other == package or LEVEL.get(other, -1) < level, f"{path} imports {name}"


def test_tests_of_mim_keras_need_nothing_else() -> None:
    for path in (PROJECT / "tests/mim_keras").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in {*OURS, "benchmarks"} - {"mim_keras"}, f"{path} imports {name}"


def test_only_the_warmup_knows_tensorflow_serving() -> None:
    found = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "mim_keras").rglob("*.py")
        if any(name.startswith("tensorflow_serving") for name in imports(path))
    }
    assert found == {"mim_keras/serving/warmup.py"}


def test_keras_is_always_keras_3() -> None:
    pattern = re.compile(r"\btf\.keras\b|from tensorflow import keras|import tf_keras")
    for package in OURS:
        for path in (PROJECT / package).rglob("*.py"):
            assert not pattern.search(path.read_text()), f"{path} uses Keras 2 by another name"


@pytest.mark.parametrize(
    "statement",
    ["import tfx_pipeline.cli", "import serving.client", "import tfx_pipeline.settings", "import mim_keras.config"],
)
def test_light_entries_import_no_tensorflow(statement: str) -> None:
    heavy = "{'tensorflow', 'tfx', 'keras', 'apache_beam'}"
    code = f"import sys; {statement}; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
