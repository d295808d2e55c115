"""What the package installs: extras that hold what their parts import, and a wheel that works without the project."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfx_pipeline.extras import OF_COMMAND, OF_MODULE, missing_extra
from tfx_pipeline.fingerprints import imported_modules

PROJECT = Path(__file__).parent.parent
# Each needs an extra of its own, and says so where it is used.
OPTIONAL = {"redis", "kubernetes", "kfp", "opentelemetry"}
BASE = ("serving.client", "serving.async_client", "serving.rollout", "serving.request_log", "tfx_pipeline.connection")


@functools.cache
def packaging() -> dict[str, Any]:
    """The arguments that setup.py gives."""
    given: dict[str, Any] = {}
    patched = pytest.MonkeyPatch()
    patched.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    patched.chdir(PROJECT)
    try:
        exec(compile((PROJECT / "setup.py").read_text(), str(PROJECT / "setup.py"), "exec"), {"__file__": "setup.py"})
    finally:
        patched.undo()
    return given


def distributions(requirements: list[str]) -> set[str]:
    """What pip would install for them, of what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(one) for one in requirements]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found.add(canonicalize_name(wanted.name))
        try:
            needs = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            extras = [*wanted.extras, ""]
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(need)
    return found


def modules_of(*packages: str) -> list[str]:
    paths = [path for package in packages for path in (PROJECT / package).rglob("*.py")]
    return [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize(
    ("extra", "modules", "more"),
    [
        ("", BASE, {"PIL", "prometheus_client", "lmdb", "ml_dtypes"}),  # pictures, a Center, bfloat16
        ("client", (*BASE, "serving.representation_center.lmdb_center"), {"ml_dtypes"}),
        ("client", ("serving.representation_center.redis_center",), set()),
        (
            "data",
            ("tfx_pipeline.data_commands", "components.contract.guess", "components.contract.preview"),
            {"tfx"},
        ),  # a type
        ("serve", modules_of("serving"), set()),
        ("train", modules_of("mim_keras"), set()),
        ("pipeline", modules_of("mim_keras", "components", "serving", "tfx_pipeline"), set()),
    ],
)
def test_an_extra_holds_what_its_part_imports(extra: str, modules: tuple[str, ...], more: set[str]) -> None:
    given = packaging()
    installed = distributions(given["install_requires"] + (given["extras_require"][extra] if extra else []))
    names = {top: {canonicalize_name(one) for one in own} for top, own in metadata.packages_distributions().items()}
    _, others = imported_modules(*modules)
    outside = {top for top in others if top not in sys.stdlib_module_names} - OPTIONAL - more
    missing = {top for top in outside if not names.get(top, set()) & installed}
    assert not missing
    if extra in ("", "client", "data"):
        assert not installed & {"tensorflow", "keras", "tfx", "tensorflow-serving-api"}


def test_the_command_line_starts_with_the_base_alone() -> None:
    installed = distributions(packaging()["install_requires"]) | {"mim-tensorflow"}
    names = metadata.packages_distributions().items()
    absent = [top for top, own in names if not {canonicalize_name(one) for one in own} & installed]
    assert {"tensorflow", "yaml", "pyarrow", "PIL"} <= set(absent)
    blocked = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); "
    code = blocked + "from tfx_pipeline.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert "rollout" in done.stdout, done.stderr


def test_every_extra_is_locked() -> None:
    locked = {
        canonicalize_name(name)
        for name in re.findall(r"^([\w.-]+)==", (PROJECT / "requirements.lock").read_text(), re.M)
    }
    for requirements in packaging()["extras_require"].values():
        for one in requirements:
            assert canonicalize_name(Requirement(one).name) in locked, one


def test_hints_name_extras_that_there_are() -> None:
    known = set(packaging()["extras_require"])
    assert {name for extra in (*OF_MODULE.values(), *OF_COMMAND.values()) for name in extra.split(",")} <= known
    lacks = ModuleNotFoundError("No module named 'tfx'", name="tfx.types")
    assert missing_extra(lacks, "run") == (
        "`mim run` needs the package tfx, which is missing: pip install 'mim-tensorflow[pipeline]'"
    )
    spans = ModuleNotFoundError("No module named 'opentelemetry.sdk'", name="opentelemetry.sdk")
    assert "needs the package opentelemetry, which is missing: pip install 'mim-tensorflow[otel]'" in str(
        missing_extra(spans, "serve")
    )
    assert missing_extra(ModuleNotFoundError("our own mistake", name="serving.none"), "run") is None
    assert missing_extra(ValueError("of another kind"), "run") is None


@pytest.mark.parametrize(
    ("lacks", "words", "extra"),
    [
        ("yaml", ["check", "--data", "."], "data"),
        ("tensorflow", ["serve", "--models", "."], "serve"),
        ("lmdb", ["rank", "--user", "u", "--candidates", "a", "--center", "."], "client"),
    ],
)
def test_a_command_says_which_extra_it_needs(lacks: str, words: list[str], extra: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{lacks!r}] = None; from tfx_pipeline.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        f"error: `mim {words[0]}` needs the package {lacks}, which is missing: pip install 'mim-tensorflow[{extra}]'",
    )


# -- the wheel ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source, which nothing is written into."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder)
    for package in ("mim_keras", "components", "tfx_pipeline", "serving"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder)
    (made,) = (folder / "dist").glob("*.whl")
    return made


def run(*words: Any, **options: Any) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Environment:
    """A virtual environment with an extra of the wheel, in the locked versions, and without the project."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.folder = folder
        base = Path(sys.base_prefix) / "bin" / "python3"
        uv = Path(sys.prefix) / "bin" / "uv"
        run(uv, "venv", "--quiet", "--python", base, folder / "venv")
        locked = re.findall(r"^[\w.-]+==\S+", (PROJECT / "requirements.lock").read_text(), re.M)
        (folder / "locked").write_text("\n".join(locked))
        wanted = f"mim-tensorflow{extra} @ file://{wheel}"
        run(uv, "pip", "install", "--quiet", "--python", self.bin / "python", "-c", folder / "locked", wanted)

    @property
    def bin(self) -> Path:
        return self.folder / "venv/bin"

    def run(self, *words: Any) -> str:
        return run(*words, cwd=self.folder, env={"PATH": os.environ["PATH"], "HOME": str(self.folder)})

    def packages(self) -> set[str]:
        listed = "import importlib.metadata as m; print(*{one.name.lower() for one in m.distributions()})"
        return set(self.run(self.bin / "python", "-c", listed).split())


@pytest.mark.slow
def test_the_base_shows_its_commands_and_says_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    made = Environment(tmp_path, wheel, "")
    assert not made.packages() & {"tensorflow", "apache-beam", "pyarrow", "keras"}
    mim = made.bin / "mim"
    assert "rollout" in made.run(mim, "--help")
    assert "--impressions" in made.run(mim, "init", "--help")
    assert "--model_config_file" in made.run(mim, "serve", "--help")
    done = subprocess.run([mim, "check", "--data", "."], capture_output=True, text=True, cwd=tmp_path)
    assert "pip install 'mim-tensorflow[data]'" in done.stderr


@pytest.mark.slow
def test_data_are_checked_with_the_installed_wheel(wheel: Path, tmp_path: Path, shop: Path) -> None:
    made = Environment(tmp_path, wheel, "[data]")
    assert not made.packages() & {"tensorflow", "keras", "tfx"}
    assert "next: mim run" in made.run(made.bin / "mim", "check", "--data", shop)
    assert "sample" in made.run(made.bin / "mim", "check", "--config", "sample", "--data", shop)
    (tmp_path / "items.csv").write_text("sku,name\n" + "".join(f"i{n},red lamp {n}\n" for n in range(60)))
    views = "".join(f"u{n % 7},i{n % 60},{'click' if n % 3 else 'view'},{1700000000 + n}\n" for n in range(600))
    (tmp_path / "events.csv").write_text("user,sku,event,at\n" + views)
    assert "wrote" in made.run(made.bin / "mim", "init", "--items", "items.csv", "--events", "events.csv")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.serving.ranker import export

    folder = tmp_path_factory.mktemp("models")
    export(folder / "mim_ranker/1")
    return folder


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    from serving.embedded_server.server import EmbeddedServer

    with EmbeddedServer(models, port=0) as server:
        yield server.address


def rank(made: Environment, address: str, *more: Any) -> list[str]:
    words = ["rank", "--server", address, "--user", "u1", "--history", "i1", "--candidates", "a,bbb,cc", "--json"]
    return [one["item_id"] for one in json.loads(made.run(made.bin / "mim", *words, *more))]


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "[client]"])
def test_a_client_without_tensorflow_ranks(wheel: Path, address: str, tmp_path: Path, extra: str) -> None:
    made = Environment(tmp_path, wheel, extra)
    assert not made.packages() & {"tensorflow", "tensorflow-serving-api", "tfx", "keras", "apache-beam", "pyarrow"}
    assert rank(made, address) == ["bbb", "cc", "a"]
    documented = re.search(
        r"### A client without TensorFlow.*?```python\n(.*?)```", (PROJECT / "docs/serving.md").read_text(), re.S
    )
    assert documented is not None
    (tmp_path / "example.py").write_text(documented[1].replace("localhost:8500", address))
    printed = made.run(made.bin / "python", "example.py")
    assert "i00950" in printed
    if extra:
        from serving.representation_center.center import open_center

        open_center(str(tmp_path / "center")).close()
        assert rank(made, address, "--center", tmp_path / "center") == ["bbb", "cc", "a"]


@pytest.mark.slow
def test_the_installed_server_serves(wheel: Path, models: Path, tmp_path: Path) -> None:
    made = Environment(tmp_path, wheel, "[serve]")
    assert not made.packages() & {"tfx", "apache-beam", "keras-rs"}
    words = [str(made.bin / "mim"), "serve", "--models", str(models), "--port=0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stderr is not None
        started = next(line for line in server.stderr if line.startswith(("serving ", "error")))
        assert rank(made, started.split()[-1]) == ["bbb", "cc", "a"]
        server.terminate()


@pytest.mark.slow
def test_the_models_are_a_library_of_their_own(wheel: Path, tmp_path: Path) -> None:
    made = Environment(tmp_path, wheel, "[train]")
    assert not made.packages() & {"tfx", "apache-beam", "pyarrow", "waitress"}
    code = "import importlib, pkgutil, mim_keras as m; " + (
        "print(len([importlib.import_module(one.name) for one in pkgutil.walk_packages(m.__path__, 'mim_keras.')]))"
    )
    assert int(made.run(made.bin / "python", "-c", code)) > 90
