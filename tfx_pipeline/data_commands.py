"""`mim init` and `mim check`: from a shop's own export to a folder that a run takes.  No TensorFlow here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from components.contract.preview import Preview
    from tfx_pipeline.settings import Settings


@click.command()
@click.option(
    "--items", required=True, type=click.Path(exists=True, path_type=Path), help="The catalogue: file or folder."
)
@click.option("--events", type=click.Path(exists=True, path_type=Path), help="A log of views, clicks, orders …")
@click.option(
    "--impressions",
    type=click.Path(exists=True, path_type=Path),
    help="Impression log with a 0/1 label; instead of --events.",
)
@click.option(
    "--users", type=click.Path(exists=True, path_type=Path), help="The users: file or folder, if there is one."
)
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the pictures.")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that shop.yaml is written to; default: the common folder of the tables.",
)
@click.option("--force", is_flag=True, help="Write over a shop.yaml that is there.")
def init(
    items: Path,
    events: Path | None,
    impressions: Path | None,
    users: Path | None,
    images: Path | None,
    folder: Path | None,
    force: bool,
) -> None:
    """Guess what a shop's tables mean and write `shop.yaml`, each guess with an example.

    Example: mim init --items export/items.csv --events export/events.csv.gz
    """
    from components.contract.guess import guess_schema, to_yaml
    from components.contract.schema import SCHEMA_FILE

    if (events is None) == (impressions is None):
        raise click.UsageError("give the log as --events or as --impressions, one of the two")
    log = events or impressions
    assert log is not None
    folder = folder or _common_folder(items, log, *([users] if users else []))
    path = folder / SCHEMA_FILE
    if path.exists() and not force:
        raise click.UsageError(f"{path} is there already; --force writes over it")
    values, guesses = guess_schema(items, log, folder, "events" if events else "impressions", images, users)
    width = max(len(guess.key) for guess in guesses)
    for guess in guesses:
        click.echo(
            f"{guess.key:{width}s}  {guess.value}  ({guess.why})" if guess.why else f"{guess.key}  {guess.value}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(values, guesses))
    click.echo(f"\nwrote {path}; change what is wrong there, then: mim check --data {folder}")


def _common_folder(*tables: Path) -> Path:
    """The folder that all tables lie in."""
    parents = [path.resolve() if path.is_dir() else path.resolve().parent for path in tables]
    common = Path(os.path.commonpath(parents))
    return common if common != Path(common.anchor) else parents[0]


def preview(data: str, settings: Settings, rows: int) -> Preview:
    """The `Preview` of a folder, with the settings of a run."""
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.contract.files import Spans
    from components.contract.preview import preview_folder
    from mim_keras.config import to_mapping

    FileSystems.set_options(PipelineOptions(list(settings.beam_args)))  # Beam reads s3:// with options alone
    chosen = settings.data
    spans = Spans(**to_mapping(chosen.spans))
    split = chosen.split
    return preview_folder(data, split.by, split.fractions, chosen.max_rejected_fraction, spans, rows)


@click.command()
@click.option("--data", required=True, help="Folder of the tables.")
@click.option("--config", default="shop", show_default=True, help="Settings of the run: split, limits.")
@click.option("--rows", default=100_000, show_default=True, help="Rows of each table that are tried.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated.")
def check(data: str, config: str, rows: int, overrides: tuple[str, ...]) -> None:
    """Try the data contract on the first rows of each table: what a run would use, reject and drop.

    Exits with 1 where a run would stop.
    """
    from tfx_pipeline.settings import Settings

    found = preview(data, Settings.load(config, overrides), rows)
    click.echo(found.text)
    if found.problems:
        raise click.exceptions.Exit(1)
    with_config = "" if config == "shop" else f" --config {config}"
    click.echo(f"next: mim run{with_config} --data {data} --root ROOT")
