"""Which extra of the package brings what a command lacks."""

from __future__ import annotations

OF_MODULE = {"redis": "redis", "kubernetes": "kubernetes", "kfp": "kubeflow", "opentelemetry": "otel"}
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
    """What to install, in a sentence, where `error` says that a package is missing; else None.

    Args:
        error: What ended the command, or what that came from.
        command: Its name: rank, serve, run, …
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ModuleNotFoundError) and cause.name):
        cause = cause.__cause__
    if cause is None:
        return None
    top = str(cause.name).partition(".")[0]
    if top in OURS:
        return None
    extra = OF_MODULE.get(top) or OF_COMMAND.get(command, "pipeline")
    return f"`mim {command}` needs the package {top}, which is missing: pip install 'mim-tensorflow[{extra}]'"
