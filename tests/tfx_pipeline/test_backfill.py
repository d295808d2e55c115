"""Which days a backfill runs, in which order, and what it says; and which release a run follows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.releases import Release, ReleaseStore
from serving.storage import as_path
from tfx_pipeline import backfill
from tfx_pipeline.cli import main
from tfx_pipeline.runners import local

Backfill = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backfill:
    """Runs the command; instead of a pipeline, a note of the day, and an error on the day that `stop` names."""
    for day in (1, 2, 3, 5):
        (tmp_path / f"data/impressions/day=2026-01-0{day}").mkdir(parents=True)
        (tmp_path / f"data/impressions/day=2026-01-0{day}/part.csv").write_text("user_id\n")

    def ask(first: str, last: str, *sets: str, stop: str = "", root: str = "root") -> tuple[int, str]:
        def note(config: str, overrides: tuple[str, ...], *others: object) -> str:
            day = overrides[-1].partition("=")[2]
            if day == stop:
                raise RuntimeError("interrupted")
            return f"ran {day}"

        monkeypatch.setattr(backfill, "_run_day", note)
        words = ["backfill", "--data", str(tmp_path / "data"), "--root", str(tmp_path / root)]
        words += ["--config", "sample", "--from", f"2026-01-{first}", "--to", f"2026-01-{last}"]
        words += [word for one in ("data.spans.pattern='day={SPAN}'", *sets) for word in ("--set", one)]
        done = CliRunner().invoke(main, words)
        return done.exit_code, done.output

    return ask


def test_days_run_in_order_and_once(ask: Backfill, tmp_path: Path) -> None:
    failed = ask("01", "03", stop="2026-01-03")
    assert failed == (1, "2026-01-01  ran 2026-01-01\n2026-01-02  ran 2026-01-02\nerror: interrupted\n")
    os.utime(tmp_path / "data/impressions/day=2026-01-02/part.csv", (1, 1))
    resumed = ask("01", "03")
    changed = "; its files have changed since, which another --root would read"
    assert resumed[1].splitlines() == [
        "2026-01-01  ran 2026-01-01 (done before)",
        f"2026-01-02  ran 2026-01-02 (done before{changed})",
        "2026-01-03  ran 2026-01-03",
    ]
    code, said = ask("01", "03", "name=other")
    assert code == 2
    assert "has 2026-01-01 done with these settings and this data; received 'others'" in said


def test_a_day_is_not_run_after_a_later_one(ask: Backfill) -> None:
    assert ask("02", "02")[0] == 0
    code, said = ask("01", "03")
    assert code == 2
    assert "has 2026-01-02 done, and 2026-01-01 not" in said
    assert ask("03", "03") == (0, "2026-01-03  ran 2026-01-03\n"), "behind it another one is run"


def test_days_that_are_not_there(ask: Backfill) -> None:
    code, said = ask("03", "07")
    assert code == 2
    assert (
        "received 2026-01-04, 2026-01-06, 2026-01-07. There are 4, 2026-01-01 to 2026-01-05 without 2026-01-04" in said
    )
    assert "data.spans.missing: allow" not in said, "days at the end cannot be left out"
    assert "or set data.spans.missing: allow" in ask("03", "05")[1]
    allowed = ask("03", "05", "data.spans.missing=allow")
    assert allowed[1].splitlines() == [
        "2026-01-04  no files, left out",
        "2026-01-03  ran 2026-01-03",
        "2026-01-05  ran 2026-01-05",
    ]
    assert "--from is not later than --to" in ask("05", "03")[1]
    assert "2026-01-x" in ask("x", "03")[1]
    assert "needs a log with a folder or a file for each day" in ask("01", "03", "data.spans.pattern=''")[1]
    assert "mim backfill sets data.spans.until itself" in ask("01", "03", "data.spans.until=2026-01-02")[1]


def test_the_release_that_a_run_follows(tmp_path: Path) -> None:
    """The same run again follows what it followed, whether it has published since or not; any other the current one."""
    store = ReleaseStore(tmp_path)

    def publish(name: str) -> int:
        model = tmp_path / name / "mim_ranker"
        model.mkdir(parents=True)
        return store.publish(Release(name, "v"), {"mim_ranker": model}).version

    def followed(identity: str, data_only: bool = False) -> int:
        release = local.followed_release(as_path(tmp_path), identity, data_only)
        return release.version if release else 0

    assert followed("day 1") == 0
    first = publish("a")
    assert followed("day 1") == 0
    assert followed("day 2", data_only=True) == first
    assert followed("day 1") == 0, "a run of the data alone leaves no note"
    assert followed("day 2") == first
    second = publish("b")
    assert followed("day 2") == first
    store.rollback()
    restored = store.current()
    assert restored is not None
    assert restored.version > second
    assert followed("day 2") == restored.version, "somebody went back to another release"
    assert followed("day 3") == restored.version
