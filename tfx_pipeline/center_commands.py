"""`mim center …`: the Representation Center on the command line."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tfx_pipeline.connection import connection_options
from tfx_pipeline.location import Location
from tfx_pipeline.tables import table

if TYPE_CHECKING:
    from upath import UPath


def _address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--center",
        "address",
        required=True,
        envvar="MIM_CENTER",
        help="A folder, or redis://HOST:PORT/DB. [$MIM_CENTER]",
    )(command)


def _open(address: str, create: bool = False) -> Any:
    from serving.representation_center.center import open_center

    return open_center(address, create)


@click.group()
def center() -> None:
    """The Representation Center: embeddings by item and encoder version."""


@center.command()
@click.argument("snapshot", type=Location(exists=True))
@_address
@click.option("--promote", is_flag=True, help="Make it the active version once it is loaded.")
@click.option("--keep", type=int, default=None, help="Afterwards drop all but so many of the newest versions.")
def load(snapshot: UPath, address: str, promote: bool, keep: int | None) -> None:
    """Load SNAPSHOT: a snapshot's folder, or a run's root, whose current release's is taken."""
    from rich.console import Console
    from rich.progress import Progress

    from serving.releases import find_snapshot
    from serving.representation_center.loading import load_snapshot
    from serving.storage import local_copy

    console = Console(stderr=True)
    with (
        local_copy(find_snapshot(snapshot)) as folder,
        _open(address, create=True) as opened,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("loading", total=None)
        started = time.monotonic()
        manifest = load_snapshot(opened, folder, lambda done, of: progress.update(task, completed=done, total=of))
        seconds = time.monotonic() - started
        if promote:
            opened.promote(manifest.encoder_version)
        dropped = opened.retain(keep) if keep is not None else []
    click.echo(
        f"version {manifest.encoder_version}: {manifest.count:,} vectors in {seconds:.1f} s"
        f"{', now active' if promote else '; `mim center promote` makes it active'}"
        f"{', dropped ' + ', '.join(dropped) if dropped else ''}",
        err=True,
    )


@center.command()
@click.argument("items")
@_address
@click.option("--version", default=None, help="Of the encoder; the active one if not given.")
@click.option("--json", "as_json", is_flag=True)
def get(items: str, address: str, version: str | None, as_json: bool) -> None:
    """Show the vectors of ITEMS, comma-separated. A look queues nothing."""
    ids = [part.strip() for part in items.split(",") if part.strip()]
    with _open(address) as opened:
        if version is not None:
            opened.version(version)  # says which there are
        found = opened.get(ids, version, queue_misses=False)
    if not found.version:
        raise click.ClickException("no version is active yet; load a snapshot, then promote its version")
    vectors = [
        [round(float(value), 4) for value in vector] if there else None
        for vector, there in zip(found.vectors, found.mask, strict=True)
    ]
    if as_json:
        click.echo(json.dumps({"version": found.version, "vectors": dict(zip(ids, vectors, strict=True))}))
        return
    rows = [[item, _begin(vector)] for item, vector in zip(ids, vectors, strict=True)]
    table(["item", f"vector of version {found.version}"], rows)


def _begin(vector: list[float] | None) -> str:
    return "no vector" if vector is None else " ".join(f"{value:+.3f}" for value in vector[:8]) + " …"


@center.command()
@click.argument("version")
@_address
def promote(version: str, address: str) -> None:
    """Make VERSION the active one, for every reader at once."""
    with _open(address) as opened:
        opened.promote(version)
    click.echo(f"version {version} is active", err=True)


@center.command()
@_address
def rollback(address: str) -> None:
    """Go back to the version that was active before."""
    with _open(address) as opened:
        click.echo(f"version {opened.rollback()} is active again", err=True)


@center.command()
@_address
@click.option("--json", "as_json", is_flag=True)
def stats(address: str, as_json: bool) -> None:
    """Show versions, counts, the queue and what is parked."""
    with _open(address) as opened:
        found, parked = opened.stats(), opened.parked()
    if as_json:
        versions = {
            name: {**version.to_mapping(), "count": found.counts[name]} for name, version in found.versions.items()
        }
        summary = {"active": found.active, "previous": found.previous, "newest": found.newest, "queued": found.queued}
        click.echo(json.dumps({**summary, "parked": parked, "versions": versions}))
        return
    state = {found.previous: "previous", found.active: "active"}
    rows = [
        [
            name,
            state.get(name, "ready" if version.ready else "loading"),
            found.counts[name],
            version.dimension,
            version.dtype,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created_at)),
        ]
        for name, version in found.versions.items()
    ]
    table(["version", "state", "vectors", "dimension", "dtype", "made"], rows)
    age = f"{time.time() - found.newest:.0f} s ago" if found.newest else "never"
    click.echo(f"newest vector stored {age}; {found.queued:,} items queued, {found.parked:,} parked")
    for item_id, reason in list(parked.items())[:10]:
        click.echo(f"  parked {item_id}: {reason}")


@center.command()
@_address
@click.option("--events", required=True, help="A folder into which files are dropped, or redis-stream:KEY.")
@click.option(
    "--catalogue",
    default=None,
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the tables, for missed items.",
)
@click.option("--server", default="localhost:8500", show_default=True, metavar="HOST:PORT")
@click.option("--batch", default=64, show_default=True, help="Contents a call of the encoder.")
@click.option("--attempts", default=3, show_default=True, help="Failures after which an item is parked.")
@click.option("--metrics_port", default=0, help="Serve metrics for Prometheus on this port.")
@click.option("--metrics_host", default="127.0.0.1", show_default=True, help="Address of that port.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds a call of the encoder may take.")
@connection_options
def watch(
    address: str,
    events: str,
    catalogue: str | None,
    server: str,
    batch: int,
    attempts: int,
    metrics_port: int,
    metrics_host: str,
    timeout: float,
    connection: dict[str, Any],
) -> None:
    """Give new and changed items their vectors, as their events come in, until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from components.contract.catalogue_content import CatalogueContent
    from serving.client import MimClient
    from serving.representation_center.events import EventSource, FolderEvents, RedisStreamEvents
    from serving.representation_center.watch import WatchConfig, Watcher

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with _open(address, create=True) as opened, MimClient(server, timeout, **connection) as client:
        if events.startswith("redis-stream:"):
            if not address.startswith("redis"):
                raise click.UsageError(f"--events {events} is read from the Center's Redis; --center is {address}")
            name = f"{os.uname().nodename}-{os.getpid()}"
            source: EventSource = RedisStreamEvents(opened.client, events.partition(":")[2], name)
        else:
            source = FolderEvents(events)
        if metrics_port:
            opened.metrics.serve(metrics_port, metrics_host)
        config = WatchConfig(batch_size=batch, max_attempts=attempts)
        click.echo(f"watching {events}; the encoder is at {server}", err=True)
        Watcher(opened, client, source, CatalogueContent(catalogue) if catalogue else None, config).run(stopped)
