"""Which extra of the package brings what a command lacks."""

from __future__ import annotations

OF_MODULE = {"kfp": "pipeline,kubeflow", "opentelemetry": "otel"}
OF_COMMAND = {
    "rank": "client",
    "similar": "client",
    "embed": "client",
    "rollout": "client",
    "init": "data",
    "check": "data",
    "serve": "serve",
    "center": "serve",
    "releases": "serve",
    "bench": "dev,bench",
}
OURS = ("mim_keras", "components", "tfx_pipeline", "serving", "benchmarks")


def missing_extra(error: BaseException, command: str) -> str | None:
    """What to install, in a sentence, where `error` is that a package is missing; else None.

    Args:
        error: What ended the command.
        command: Its name: rank, serve, run, …
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    top = error.name.partition(".")[0]
    if top in OURS:
        return None
    extra = OF_MODULE.get(top) or OF_COMMAND.get(command, "pipeline")
    return f"`mim {command}` needs the package {top}, which is missing: pip install 'mim-tensorflow[{extra}]'"
