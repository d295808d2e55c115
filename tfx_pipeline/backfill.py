"""`mim backfill`: the runs of several days, one after the other, each with what was there by then."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import click

from mim_keras.config import ConfigError, require, to_mapping
from tfx_pipeline.settings import Settings

if TYPE_CHECKING:
    from upath import UPath

    from tfx_pipeline.runners.local import NodeTimes

DAYS = "days"  # below the root: a note for each day that is done


@dataclass(frozen=True)
class DoneDay:
    """A day that is done.

    Attributes:
        day: The date.
        settings: Digest of the settings.
        files: Digest of the log that was read.
        verdict: One line.
    """

    day: str
    settings: str
    files: str
    verdict: str


def check_and_run(
    config: str, overrides: Sequence[str], data: str, root: str, beam_flags: Sequence[str] = ()
) -> NodeTimes | None:
    """Tries the data contract, then runs the pipeline; None where the data break the contract.

    Args:
        config, overrides: See `Settings.load`.
        data, root: Folders.
        beam_flags: Behind the settings' `beam_args`.
    """
    from tfx_pipeline.auto_settings import DataCounts, describe
    from tfx_pipeline.data_commands import preview
    from tfx_pipeline.runners import local

    settings = Settings.load(config, overrides)
    found = preview(data, settings, rows=20_000)
    click.echo(found.text, err=True)
    if found.problems:
        return None
    if Settings.is_auto(config):
        counts = DataCounts.of_preview(found)
        settings = Settings.load(config, overrides, counts)
        click.echo(describe(counts, settings), err=True)
    settings = dataclasses.replace(settings, beam_args=(*settings.beam_args, *beam_flags))
    return local.run(settings, data, root)


def backfill_days(
    config: str, data: str, root: UPath, dates: tuple[str, str], overrides: Sequence[str], beam_flags: Sequence[str]
) -> None:
    """Runs each day from the first of `dates` to the last; see `mim backfill`."""
    first, last = dates
    from serving.storage import as_path

    settings = Settings.load(config, overrides)
    rule, fix = "mim backfill sets data.spans.until itself", "Take it out."
    require(not settings.data.spans.until, rule, settings.data.spans.until, fix)
    days = days_to_run(data, settings, _day("--from", first), _day("--to", last))
    digest = hashlib.sha256(json.dumps([to_mapping(settings), str(as_path(data))]).encode()).hexdigest()[:16]
    _require_order(root, days)
    for day in days:
        files = _files(data, settings, day)
        if (done := _read(root / DAYS / f"{day}.json")) is None:
            options = (*overrides, f"data.spans.until={day}")
            done = DoneDay(day.isoformat(), digest, files, _run_day(config, options, data, root, beam_flags))
            _write(root / DAYS / f"{day}.json", done)
            click.echo(f"{day}  {done.verdict}")
            continue
        rule = f"{root} has {day} done with these settings and this data"
        require(done.settings == digest, rule, "others", "Give another --root, or the settings of then.")
        changed = "" if done.files == files else "; its files have changed since, which another --root would read"
        click.echo(f"{day}  {done.verdict} (done before{changed})")


def days_to_run(data: str, settings: Settings, first: date, last: date) -> list[date]:
    """The days from `first` to `last` that have files.

    Raises:
        ConfigError: the log has no daily folders, or a day has no files; the message says what is there.
    """
    require(first <= last, "--from is not later than --to", f"{first}, {last}", "Swap them.")
    found = _known_days(data, settings)
    wanted = _days_between(first, last)
    missing = [day for day in wanted if day not in found]
    between = [day for day in missing if found[0] < day < found[-1]]
    if missing and (settings.data.spans.missing == "stop" or missing != between):
        some = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        gaps = [day for day in _days_between(found[0], found[-1]) if day not in found]
        without = f" without {', '.join(map(str, gaps[:5]))}{' …' if len(gaps) > 5 else ''}" if gaps else ""
        raise ConfigError(
            f"--from and --to name days that {data} has; received {some}. There are {len(found)}, {found[0]} to "
            f"{found[-1]}{without}. Give other days"
            + (", deliver them, or set data.spans.missing: allow, which leaves them out" if missing == between else "")
        )
    for day in missing:
        click.echo(f"{day}  no files, left out")
    return [day for day in wanted if day in found]


def _known_days(data: str, settings: Settings) -> list[date]:
    from components.contract.files import Spans, load_schema, span_date, span_files

    schema, spans = load_schema(data), settings.data.spans
    read = span_files(data, schema.log, schema.table(schema.log), Spans(spans.pattern, missing="allow"))
    dates = [span_date(span) for span in read.files] if read else []
    if not dates or None in dates:
        raise ConfigError(
            f"mim backfill needs a log with a folder or a file for each day; {data} has "
            f"{'spans that are no dates' if dates else 'none'}. Set data.spans.pattern, e.g. "
            f'"day={{SPAN}}" for {schema.log}/day=2026-01-31/, or write {{SPAN}} in {schema.log}.files of shop.yaml'
        )
    return sorted(day for day in dates if day is not None)


def _days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _day(option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise click.BadParameter(f"{option} takes a date such as 2026-01-31; received {text}") from None


def _require_order(root: UPath, days: Sequence[date]) -> None:
    """A day is not run after a later one: it would start from what came of that."""
    done = {file.stem for file in (root / DAYS).glob("*.json")} if (root / DAYS).is_dir() else set()
    waiting = [day.isoformat() for day in days if day.isoformat() not in done]
    later = sorted(day for day in done if waiting and day > waiting[0])
    if later:
        raise ConfigError(
            f"{root} has {later[0]} done, and {waiting[0]} not; what follows a later day is not what that night would "
            "have given. Give another --root, or a later --from"
        )


def _files(data: str, settings: Settings, day: date) -> str:
    from components.contract.files import Spans, load_schema
    from tfx_pipeline.fingerprints import data_fingerprint

    schema = load_schema(data)
    spans = Spans(**{**to_mapping(settings.data.spans), "until": day.isoformat()})
    return data_fingerprint(data, schema, schema.log, spans=spans)


def _run_day(config: str, overrides: Sequence[str], data: str, root: UPath, beam_flags: Sequence[str]) -> str:
    """The verdict in a line."""
    from components.baseline_check.executor import sentence
    from serving.releases import ReleaseStore
    from tfx_pipeline.runners.newest import newest_metrics

    times = check_and_run(config, overrides, data, str(root), beam_flags)
    if times is None:
        raise ConfigError(
            f"the data of {overrides[-1].rpartition('=')[2]} break the contract, as said above. Mend them"
        )
    found, release = newest_metrics(root), ReleaseStore(root).current()
    verdict = f"released {release.version}" if found["released"] and release is not None else "not released"
    steps = f"{len(times.reused)} of {len(times.seconds)} steps reused"
    return f"{verdict}: AUC {found['auc']:.4f} of {found['rows']:,} rows, {sentence(found['baselines'])}; {steps}"


def _read(note: UPath) -> DoneDay | None:
    from serving.storage import kind

    return DoneDay(**json.loads(note.read_text())) if kind(note) == "file" else None


def _write(note: UPath, done: DoneDay) -> None:
    from serving.storage import write_text

    write_text(note, json.dumps(dataclasses.asdict(done), indent=2))
