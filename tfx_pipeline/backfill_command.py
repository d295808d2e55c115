"""`mim backfill`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tfx_pipeline.location import Location

if TYPE_CHECKING:
    from upath import UPath


@click.command()
@click.option("--config", default="shop", show_default=True, help="A YAML file, or the name of a shipped one.")
@click.option("--data", required=True, help="Folder of the tables; the log has a folder for each day.")
@click.option("--root", required=True, type=Location(), help="Folder for everything the runs write.")
@click.option("--from", "first", required=True, metavar="DATE", help="The first day, e.g. 2026-01-01.")
@click.option("--to", "last", required=True, metavar="DATE", help="The last day.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated.")
@click.argument("beam_flags", nargs=-1, type=click.UNPROCESSED)
def backfill(
    config: str,
    data: str,
    root: UPath,
    first: str,
    last: str,
    overrides: tuple[str, ...],
    beam_flags: tuple[str, ...],
) -> None:
    """Run each day from DATE to DATE, in order, as a nightly `mim run` would have: with the folders up to that day.

    Says each day's verdict in a line. A backfill that was interrupted goes on at the first day that is not done.
    With `--set warm_start=true` each day starts from the release of the days before.
    """
    from tfx_pipeline.backfill import backfill_days

    backfill_days(config, data, root, (first, last), overrides, beam_flags)
