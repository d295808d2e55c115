"""The command line `mim`.

Nothing heavy is imported before a command needs it: `mim --help` answers at once, and `mim rank` never imports
TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfx_pipeline.backfill_command import backfill
from tfx_pipeline.center_commands import center
from tfx_pipeline.connection import connection_options
from tfx_pipeline.data_commands import check, init
from tfx_pipeline.extras import missing_extra
from tfx_pipeline.location import Location
from tfx_pipeline.quiet import quiet_tensorflow
from tfx_pipeline.release_commands import releases
from tfx_pipeline.rollout_commands import rollout
from tfx_pipeline.serve_command import serve
from tfx_pipeline.tables import table

if TYPE_CHECKING:
    from upath import UPath


class _Group(click.Group):
    """Turns the errors we expect into one plain message; a traceback appears under `--debug` alone."""

    def invoke(self, context: click.Context) -> Any:
        quiet_tensorflow()
        try:
            return super().invoke(context)
        except (click.ClickException, BrokenPipeError):  # click ends quietly where nobody reads on
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if context.params.get("debug"):
                raise
            missing = missing_extra(error, context.invoked_subcommand or "")
            click.echo(f"error: {missing or _message(error)}", err=True)
            context.exit(2 if type(error).__name__ in ("ConfigError", "MovieLensError") else 1)


def _message(error: BaseException) -> str:
    """The message of the error; of one that Beam wraps, as it does what its workers raise, that of the error within."""
    cause = error
    while cause.__cause__ is not None and ("[while running" in str(cause) or _is_of_engine(cause)):
        cause = cause.__cause__
    text = str(cause).split(" [while running")[0].strip()
    return text or f"{type(cause).__name__} (run again with --debug before the command for the traceback)"


def _is_of_engine(error: BaseException) -> bool:
    module = type(error).__module__
    return module.startswith(("apache_beam", "tfx.", "ml_metadata")) or (
        type(error) is RuntimeError and error.__cause__ is not None and str(error.__cause__) in str(error)
    )


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Multi-modal content interest modelling: from a catalogue and a click log to a served ranker."""


# -- data --------------------------------------------------------------------------------------------------


@main.group("import")
def import_group() -> None:
    """Write a folder that meets the data contract."""


@import_group.command("sample")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--seed", default=20250203, show_default=True)
@click.option("--items", default=1_000, show_default=True)
@click.option("--users", default=3_000, show_default=True)
@click.option("--impressions", default=120_000, show_default=True)
@click.option("--intents", default=5_000, show_default=True)
@click.option("--if-missing", is_flag=True, help="Do nothing where the folder is already there.")
def import_sample(
    folder: Path, seed: int, items: int, users: int, impressions: int, intents: int, if_missing: bool
) -> None:
    """Generate a shop: drawn pictures, written titles, people with hidden tastes."""
    if if_missing and (folder / "oracle.json").is_file():
        click.echo(f"{folder} is there already", err=True)
        return
    from tfx_pipeline.importers.sample import SampleSize, generate_sample

    size = SampleSize(items=items, users=users, impressions=impressions, intents=intents)
    oracle = generate_sample(folder, size, seed)
    click.echo(
        f"{folder}: {items:,} items, {impressions:,} impressions; the oracle's AUC is {oracle['auc']:.4f}, "
        f"{oracle['cold_auc']:.4f} on cold items",
        err=True,
    )


@import_group.command("movielens")
@click.option("--from", "source", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def import_movielens(source: Path, folder: Path) -> None:
    """Read MovieLens: 1M `.dat`, latest `.csv`, or TSV with plots and posters. A rating of 4 or more is a click."""
    from tfx_pipeline.importers.movielens import import_movielens as run

    for what, count in run(source, folder).items():
        click.echo(f"{what}: {count:,}", err=True)


main.add_command(backfill)
main.add_command(init)
main.add_command(check)


# -- pipeline ----------------------------------------------------------------------------------------------

_config = click.option(
    "--config", "config", required=True, help="A YAML file, or the name of a shipped one: shop, sample, ml1m, …"
)
_data = click.option("--data", required=True, help="Folder of the tables, with a shop.yaml (`mim init`) or not.")
_root = click.option(
    "--root",
    required=True,
    type=Location(),
    help="Folder for everything a run writes: a local one, or one of a bucket, as gs://shop/run.",
)
_set = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated."
)


@main.command()
@click.option(
    "--config",
    "config",
    default="shop",
    show_default=True,
    help="A YAML file, or the name of a shipped one: shop (sizes follow the data), sample, ml1m, …",
)
@_data
@_root
@_set
@click.option("--runner", type=click.Choice(["local"]), default="local", show_default=True, help="Of the graph.")
@click.argument("beam_flags", nargs=-1, type=click.UNPROCESSED)
def run(
    config: str, data: str, root: UPath, overrides: tuple[str, ...], runner: str, beam_flags: tuple[str, ...]
) -> None:
    """Run the pipeline. What did not change since the last run is reused; a broken run resumes.

    BEAM_FLAGS, behind a `--`, say where Beam's work is done: `-- --runner=FlinkRunner --parallelism=8`, say.
    They come after the settings' beam_args.
    """
    from tfx_pipeline.backfill import check_and_run
    from tfx_pipeline.runners.newest import newest_metrics

    times = check_and_run(config, overrides, data, str(root), beam_flags)
    if times is None:
        raise click.exceptions.Exit(1)
    if not newest_metrics(root)["released"]:
        click.echo(
            "not released: what is served does not change (`mim metrics` and the report say why)",
            err=True,
        )
    click.echo(
        f"done in {times.total:.0f} s; {len(times.reused)} of {len(times.seconds)} steps reused\n"
        f"models: {root / 'models'}\nreport: {root / 'report.html'}",
        err=True,
    )


@main.command()
@click.option("--root", required=True, type=Location(exists=True), help="Of a run.")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def schema(root: UPath, folder: Path) -> None:
    """Write down the schemas of the newest run's data, to be kept, changed by hand, and named by data.schema."""
    from tfx_pipeline.keep_schema import keep_schemas

    for path in keep_schemas(root, folder):
        click.echo(str(path), err=True)


@main.command()
@_config
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False), help="Folder of the contract.")
@click.option("--root", required=True, type=click.Path(file_okay=False), help="Where everything is written.")
@click.option("--variants", default="", help="Names, comma-separated; all if not given.")
@click.option("--seeds", default=5, show_default=True, help="How often each is trained; differences pair by seed.")
@click.option("--reference", default="ids", show_default=True, help="The variant the others are held against.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@_set
def ablate(
    config: str,
    data: str,
    root: str,
    variants: str,
    seeds: int,
    reference: str,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Measure what each part of the method is worth: a table of variants with paired intervals over seeds."""
    from tfx_pipeline.ablation.run import PAGE
    from tfx_pipeline.ablation.run import ablate as run_ablation
    from tfx_pipeline.ablation.variants import chosen
    from tfx_pipeline.settings import Settings

    if "://" in root:
        raise click.UsageError(f"--root of an ablation is a local folder; received {root}")
    wanted = chosen(variants)
    if reference not in wanted:
        reference = next(iter(wanted))
    settings = Settings.load(config, overrides)
    if Settings.is_auto(config):
        from tfx_pipeline.auto_settings import DataCounts
        from tfx_pipeline.data_commands import preview

        settings = Settings.load(config, overrides, DataCounts.of_preview(preview(data, settings, rows=1_000)))
    found = run_ablation(settings, data, root, wanted, seeds, reference)
    click.echo(json.dumps(found) if as_json else (Path(root) / PAGE).read_text())


@main.command("compile")
@_config
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data", default="/mnt/data", show_default=True, help="Data folder as the cluster's workers see it.")
@click.option("--root", default="/mnt/mim", show_default=True, help="Default root; a run may be given another.")
@click.option("--image", default="mim-tensorflow:latest", show_default=True, help="Container image of the steps.")
@click.option("--data-version", default="", help="Specs with equal versions share cached steps; default: the time.")
@click.option(
    "--schema",
    "schema_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The `shop.yaml` of the data; default: the contract's own names.",
)
@_set
def compile_command(
    config: str,
    output: Path,
    data: str,
    root: str,
    image: str,
    data_version: str,
    schema_file: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Write the Kubeflow Pipelines v2 spec of the same graph."""
    from components.contract.schema import Schema
    from tfx_pipeline.settings import Settings

    settings = Settings.load(config, overrides)
    from tfx_pipeline.runners.kubeflow import compile_pipeline

    schema = Schema.from_yaml(schema_file.read_bytes(), str(schema_file)) if schema_file else Schema()
    compile_pipeline(settings, data, root, image, output, data_version, schema)
    click.echo(f"wrote {output}", err=True)


@main.command()
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", required=True, help="Address of the Kubeflow Pipelines API.")
@click.option("--root", default=None, help="Root of this run, where it differs from the spec's.")
def submit(spec: Path, host: str, root: str | None) -> None:
    """Start a compiled spec on a Kubeflow Pipelines cluster."""
    from tfx_pipeline.runners.kubeflow import submit_spec

    click.echo(submit_spec(spec, host, root))


@main.command()
@click.option("--root", required=True, type=Location(exists=True), help="Of a run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def metrics(root: UPath, as_json: bool) -> None:
    """Show what the newest evaluation measured."""
    from components.baseline_check.executor import sentence
    from tfx_pipeline.runners.newest import newest_metrics

    found = newest_metrics(root)
    if as_json:
        click.echo(json.dumps(found))
        return
    columns = ("auc", "gauc", "logloss", "calibration", "rows")
    rows = [["all", *(found[name] for name in columns)]]
    rows += [[name, *(values[c] for c in columns)] for name, values in found["slices"].items()]
    for label, own in found["labels"].items():
        rows.append([f"{label}: all", *(own[name] for name in columns)])
        rows += [[f"{label}: {name}", *(values[c] for c in columns)] for name, values in own["slices"].items()]
    table(["rows of", *columns], rows)
    click.echo(f"baselines: {sentence(found['baselines'])}")
    click.echo("released" if found["released"] else "not released")


# -- serving -----------------------------------------------------------------------------------------------

_server = click.option("--server", default="localhost:8500", show_default=True, metavar="HOST:PORT")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds the call may take.",
)


@main.command()
@click.option("--user", required=True)
@click.option("--history", default="", help="Clicked items, comma-separated, most recent last.")
@click.option("--ages", default="", help="Seconds since each click, comma-separated; an hour each if not given.")
@click.option("--candidates", required=True, help="Items to rank, comma-separated.")
@click.option("--context", multiple=True, metavar="NAME=VALUE", help="A context feature; may be repeated.")
@click.option(
    "--attribute",
    multiple=True,
    metavar="NAME=V,V,…",
    help="An attribute's values, one for each candidate, empty to keep the catalogue's; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True)
@click.option("--center", default=None, help="Representation Center, for items newer than the ranker's snapshot.")
@_server
@_timeout
@connection_options
def rank(
    user: str,
    history: str,
    ages: str,
    candidates: str,
    context: tuple[str, ...],
    attribute: tuple[str, ...],
    as_json: bool,
    center: str | None,
    server: str,
    timeout: float,
    connection: dict[str, Any],
) -> None:
    """Rank candidates for a user."""
    from serving.client import MimClient

    features = _pairs("--context", context)
    attributes = {name: values.split(",") for name, values in _pairs("--attribute", attribute).items()}
    try:
        seconds = [round(float(age)) for age in _listed(ages)] or None
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"--ages takes seconds, comma-separated; received {ages!r}") from error
    opened = None
    if center is not None:
        from serving.representation_center.center import open_center

        opened = open_center(center, create=False)
    with opened or contextlib.nullcontext(), MimClient(server, timeout, opened, **connection) as client:
        ranked = client.rank(user, _listed(history), _listed(candidates), seconds, features, attributes)
        _show_scored(ranked, "ctr", as_json)


@main.command()
@click.argument("item")
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@_server
@_timeout
@connection_options
def similar(item: str, count: int, as_json: bool, server: str, timeout: float, connection: dict[str, Any]) -> None:
    """Find the items whose content is nearest to ITEM's."""
    from serving.client import MimClient

    with MimClient(server, timeout, **connection) as client:
        _show_scored(client.similar(item, count), "cosine", as_json)


@main.command()
@click.option("--title", default="")
@click.option("--text", default="")
@click.option("--image", default=None, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--nearest", type=click.IntRange(min=0), default=0, help="Show so many of the nearest items instead of the vector."
)
@click.option("--json", "as_json", is_flag=True)
@_server
@_timeout
@connection_options
def embed(
    title: str,
    text: str,
    image: Path | None,
    nearest: int,
    as_json: bool,
    server: str,
    timeout: float,
    connection: dict[str, Any],
) -> None:
    """Encode content into its embedding."""
    from serving.client import MimClient
    from serving.representation_center.images import ImageError

    with MimClient(server, timeout, **connection) as client:
        try:
            vector = client.embed(image.read_bytes() if image else b"", title, text)
        except ImageError as error:
            raise click.BadParameter(f"{image} cannot be read as a picture: {error}") from error
        if nearest:
            _show_scored(client.nearest(vector, nearest), "cosine", as_json)
        elif as_json:
            click.echo(json.dumps({"embedding": [float(value) for value in vector]}))
        else:
            click.echo(" ".join(f"{value:.4f}" for value in vector))


@main.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--root", required=True, type=Location(exists=True))
def demo(data: Path, root: UPath) -> None:
    """Serve what a run pushed, ask for one ranking as a client would, and stop."""
    from tfx_pipeline.demo import show_one_ranking

    show_one_ranking(data, root)


main.add_command(serve)
main.add_command(releases)
main.add_command(rollout)
main.add_command(center)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Only the result on standard output; it is that anyway.")
def bench(name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Run benchmark NAME with its own options (NAME --help); the result is one JSON object."""
    import importlib

    folder = Path(__file__).parent.parent / "benchmarks"
    names = sorted(p.stem for p in folder.glob("*.py") if "def main(" in p.read_text())
    if name not in names:
        listed = ", ".join(names) or "none: they come with a clone of the project, not with the installed package"
        raise click.UsageError(f"NAME is one of {listed}; received {name}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(folder.parent))
    importlib.import_module(f"benchmarks.{name}").main(list(words))


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    wrong = [pair for pair in given if "=" not in pair]
    if wrong:
        raise click.BadParameter(f"{option} takes NAME=VALUE; received {wrong[0]!r}")
    return dict(pair.split("=", 1) for pair in given)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show_scored(scored: list[Any], name: str, as_json: bool) -> None:
    name = "score" if scored and scored[0].outputs else name
    if as_json:
        click.echo(json.dumps([{"item_id": s.item_id, name: s.score, **s.outputs} for s in scored]))
    else:
        outputs = list(scored[0].outputs) if scored else []
        table(["item", name, *outputs], [[s.item_id, s.score, *(s.outputs[one] for one in outputs)] for s in scored])


if __name__ == "__main__":
    main()
