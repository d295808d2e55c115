"""`mim releases`: list, show, promote, rollback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tfx_pipeline.location import Location
from tfx_pipeline.tables import table

if TYPE_CHECKING:
    from upath import UPath

    from serving.releases import Release, ReleaseStore


@click.group()
def releases() -> None:
    """What was released below a root: encoder, index, ranker and snapshot that belong together.

    Example: mim releases list --root run/shop
    """


def _root(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--root",
        required=True,
        type=Location(exists=True),
        help="As given to `mim run`.",
    )(command)


@releases.command("list")
@_root
@click.option("--json", "as_json", is_flag=True)
def list_command(root: UPath, as_json: bool) -> None:
    """List all releases, the newest, which is served, first."""
    found = _store(root).list()
    if as_json:
        click.echo(json.dumps([json.loads(release.to_json()) for release in found]))
        return
    if not found:
        click.echo(f"{root} has no release yet: `mim run` makes one where the ranker is accepted", err=True)
        return
    rows = [
        [release.version, release.published_at, release.encoder_version, "current" if place == 0 else _origin(release)]
        for place, release in enumerate(found)
    ]
    table(["version", "published", "encoder", ""], rows)


def _store(root: UPath) -> ReleaseStore:
    from serving.releases import ReleaseStore  # late: it imports pyarrow

    return ReleaseStore(root)


def _origin(release: Release) -> str:
    return f"the files of {release.restored_from}" if release.restored_from else ""


@releases.command()
@_root
@click.argument("version", type=int, required=False)
def show(root: UPath, version: int | None) -> None:
    """Show one release, the current one if VERSION is not given, as JSON."""
    store = _store(root)
    release = store.current() if version is None else store.get(version)
    if release is None:
        raise click.ClickException(f"{root} has no release yet: `mim run` makes one where the ranker is accepted")
    click.echo(release.to_json())


@releases.command()
@_root
@click.argument("version", type=int)
def promote(root: UPath, version: int) -> None:
    """Serve the files of release VERSION again, under a new version."""
    _say(_store(root).promote(version))


@releases.command()
@_root
def rollback(root: UPath) -> None:
    """Go back to the release before; a run does not publish the one that is left again, `promote` does."""
    _say(_store(root).rollback())


def _say(release: Release) -> None:
    origin = f", {_origin(release)}" if release.restored_from else ""
    click.echo(f"release {release.version} is current{origin}; servers of {release.encoder_version} follow", err=True)
