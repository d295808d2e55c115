"""`mim rollout`: hold, canary, promote, rollback, status."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from tfx_pipeline.connection import connection_options
from tfx_pipeline.tables import table


@click.group()
def rollout() -> None:
    """Bring a new version of a model in beside the old one, compare them, promote it or go back."""


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which roll-out is meant; the command takes `open_rollout`, which opens it."""

    @functools.wraps(command)
    def command_with_rollout(
        config: Path | None,
        config_map: str | None,
        model: str,
        servers: tuple[str, ...],
        connection: dict[str, Any],
        **others: Any,
    ) -> Any:
        if (config is None) == (config_map is None):
            raise click.UsageError("a roll-out needs one of --model_config_file and --config_map")
        opened = functools.partial(_open, config, config_map, model, servers, connection)
        return command(open_rollout=opened, **others)

    for option in (
        click.option(
            "--server",
            "servers",
            multiple=True,
            default=["localhost:8500"],
            show_default=True,
            metavar="HOST:PORT",
            help="Repeat it for every server of the configuration.",
        ),
        click.option("--model", default="mim_ranker", show_default=True),
        click.option(
            "--model_config_file",
            "config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The file the servers were started with; it is rewritten.",
        ),
        click.option(
            "--config_map",
            metavar="NAMESPACE/NAME",
            help="On Kubernetes: the ConfigMap that they mount; it is written.",
        ),
    ):
        command_with_rollout = option(command_with_rollout)
    return connection_options(command_with_rollout)


@rollout.command("init")
@click.option("--config_map", required=True, metavar="NAMESPACE/NAME", help="Is made; servers mount it.")
@click.option("--from", "file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def init(config_map: str, file: Path) -> None:
    """Put a file of models into a ConfigMap, which roll-outs alone change from then on."""
    from serving.config_store import ConfigMap

    ConfigMap(config_map).create(file.read_text())
    click.echo(f"{config_map} holds {file}", err=True)


@rollout.command()
@_where
@click.option("--version", type=int, help="This one; the newest available where not given.")
@click.option("--seconds", default=300.0, show_default=True, help="How long it may take to load.")
def hold(open_rollout: Callable[[], Any], version: int | None, seconds: float) -> None:
    """Label a version `stable` and keep to it: newer ones wait until they are asked for."""
    _show(open_rollout().hold(version, seconds))


@rollout.command()
@_where
@click.option("--version", required=True, type=int, help="The version on trial; its folder is in place already.")
@click.option("--seconds", default=300.0, show_default=True, help="How long it may take to load.")
def canary(open_rollout: Callable[[], Any], version: int, seconds: float) -> None:
    """Load a version beside the stable one and label it `canary`."""
    _show(open_rollout().canary(version, seconds))


@rollout.command()
@_where
@click.option("--requests", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Logged requests.")
@click.option("--max-requests", default=2_000, show_default=True, help="Replayed at most.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Change a limit; see docs/serving.md.")
@click.option("--unseen", is_flag=True, help="Promote without a comparison.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as one JSON object.")
def promote(
    open_rollout: Callable[[], Any],
    requests: Path | None,
    max_requests: int,
    limits: tuple[str, ...],
    unseen: bool,
    as_json: bool,
) -> None:
    """Replay logged requests against both versions; make the canary stable if it keeps the limits."""
    from serving.request_log import read_requests
    from serving.shadow import Limits

    if (requests is None) != unseen:
        raise click.UsageError("promote needs --requests FILE to compare the versions by, or else --unseen")
    known: dict[str, Any] = {field.name: int if field.type == "int" else float for field in fields(Limits)}
    changed = dict(pair.partition("=")[::2] for pair in limits)
    if set(changed) - set(known):
        raise click.UsageError(f"--limit is one of {', '.join(known)}; received {', '.join(set(changed) - set(known))}")
    allowed = Limits(**{name: known[name](value) for name, value in changed.items()})
    run = open_rollout()
    comparison = None
    if requests is not None:
        comparison = run.compare(read_requests(requests), max_requests, _show_progress)
        if as_json:
            click.echo(json.dumps(comparison.as_dict()))
        else:
            rows = [
                ["mean score", *comparison.mean],
                ["p50, ms", *comparison.p50],
                ["p99, ms", *comparison.p99],
            ]
            table([f"{comparison.requests} requests", "stable", "canary"], rows)
            overlap = "–" if comparison.top_overlap is None else f"{comparison.top_overlap:.0%}"
            click.echo(
                f"stability index {comparison.psi:.4f}, best items kept {overlap}, errors of the canary alone "
                f"{comparison.errors}",
                err=True,
            )
    _show(run.promote(comparison, allowed), to_error=as_json)


@rollout.command()
@_where
def rollback(open_rollout: Callable[[], Any]) -> None:
    """Take the canary away; without one, go back to the version before."""
    _show(open_rollout().rollback())


@rollout.command()
@_where
def status(open_rollout: Callable[[], Any]) -> None:
    """Show versions, their states and labels."""
    _show(open_rollout().place())


def _open(
    config: Path | None, config_map: str | None, model: str, servers: tuple[str, ...], connection: dict[str, Any]
) -> Any:
    from serving.config_store import ConfigMap
    from serving.rollout import Rollout

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return Rollout(model, config or ConfigMap(str(config_map)), servers, **connection)


def _show_progress(count: int) -> None:
    if count % 200 == 0:
        print(f"{count} requests compared", file=sys.stderr)


def _show(place: Any, to_error: bool = False) -> None:
    of_version: dict[int, list[str]] = {}
    for label, version in place.labels.items():
        of_version.setdefault(version, []).append(label)
    versions = sorted({*place.states, *of_version}, reverse=True)
    rows = [[str(v), place.states.get(v, "–"), ", ".join(of_version.get(v, []))] for v in versions]
    if to_error:
        click.echo("; ".join(f"{label}: {version}" for label, version in place.labels.items()), err=True)
    else:
        table(["version", "state", "labels"], rows)
