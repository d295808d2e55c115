"""Runs the graph in this process, one node after the other, and says what it is doing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from components.contract.schema import Schema
from serving.releases import Release
from serving.storage import as_path, find, is_local, kind, remove_tree, write_text
from tfx_pipeline.runners.root import LOG, METADATA, Root, RootBusyError
from tfx_pipeline.settings import Settings

__all__ = ["NodeTimes", "RootBusyError", "narrated", "run", "say"]

PAGE = "report.html"
LAST_RUN = "last_run.json"  # what the newest run was, and which release it followed
# Artifacts that are made of tables, and hold the rows that were rejected.
ROW_OUTPUTS = (
    ("CatalogueGen", "items"),
    ("ImpressionGen", "impressions"),
    ("HistoryGen", "examples"),
    ("PairGen", "pairs"),
)

_RUNNING = re.compile(r"Component (\S+) is running\.")
_FINISHED = re.compile(r"Component (\S+) is finished\.")
_REPORTED = re.compile(r"^(table |content: |baselines: |snapshot of |release: |beam )")


@dataclass
class NodeTimes:
    """Seconds that each node of a run took, in order; and which of them reused an earlier result."""

    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds of all nodes together."""
        return sum(self.seconds.values())


class _Narrator(logging.Handler):
    """Turns TFX's log into one line a node, on standard error."""

    def __init__(self, nodes: int, times: NodeTimes) -> None:
        super().__init__(logging.INFO)
        self._nodes, self._times = nodes, times
        self._started, self._place, self._reused = 0.0, 0, False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if found := _RUNNING.search(message):
            self._started, self._reused = time.monotonic(), False
            self._place += 1
            say(f"[{self._place:2d}/{self._nodes}] {found[1]}")
        elif found := _FINISHED.search(message):
            self._times.seconds[found[1]] = time.monotonic() - self._started
            if self._reused:
                self._times.reused.append(found[1])
            say(f"        {self._times.seconds[found[1]]:.1f} s{', reused' if self._reused else ''}")
        elif "A cached execution" in message:
            self._reused = True
        elif _REPORTED.search(message) or record.name == "mim":
            say(f"        {message}")
        elif record.levelno >= logging.ERROR:
            say(f"        {record.levelname.lower()}: {message.splitlines()[0]}")


def say(line: str) -> None:
    """One line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def narrated(nodes: int, times: NodeTimes, log_file: Path) -> Iterator[None]:
    """While it lasts, TFX's and Beam's logs go to `log_file`, and a line a node to standard error."""
    from absl import logging as absl_logging

    log_file.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(log_file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    narrator = _Narrator(nodes, times)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    loggers = [logging.getLogger(), absl_logging.get_absl_logger(), logging.getLogger("tensorflow")]
    previous, levels = [logger.handlers[:] for logger in loggers], [logger.level for logger in loggers]
    for logger in loggers[1:]:  # to the root logger alone, so that nothing is logged twice
        logger.handlers[:], logger.propagate = [], True
    loggers[0].handlers[:] = [to_file, narrator]
    for logger in (loggers[0], loggers[2]):
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, own in zip(loggers, previous, levels, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(own)
        absl_logging.set_verbosity(verbosity)
        to_file.close()


def run(settings: Settings, data: str, root: str, ranker_only: bool = False) -> NodeTimes:
    """Runs the pipeline, or with `ranker_only` what the ranker is trained by.

    Nodes whose inputs, settings and code did not change reuse their last result.  A run with the settings, the code and
    the log of the one before, be it finished or interrupted, follows the same release as that one: it goes on where
    that ended, and what that released is neither compared with itself nor trained on again.

    Raises:
        ConfigError: a backbone is not there.
        RootBusyError: another run writes to `root`.
        Whatever a node raises; what was done before it is kept and reused by the next run.
    """
    settings.require_presets()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfx import v1 as tfx
    from tfx.orchestration import metadata

    from components.contract.files import load_schema
    from tfx_pipeline.pipeline import RunPaths, create_pipeline

    folder, times = Root(_resolved(root)), NodeTimes()
    data = str(_resolved(data))
    with folder.written():
        schema = load_schema(data)
        released = _present(followed_release(folder.location, identity_of(settings, data, schema), ranker_only))
        if settings.warm_start:
            say(f"warm start: {f'from release {released.version}' if released else 'no release yet, so from scratch'}")
        remove_tree(folder.location / "rejected")  # of the run before
        run_id = datetime.now(UTC).isoformat()
        paths = RunPaths(data, str(folder.location).rstrip("/"), released, settings.warm_start, run_id=run_id)
        pipeline = create_pipeline(settings, paths, schema, ranker_only)
        store = str(folder.state / METADATA)
        pipeline.metadata_connection_config = metadata.sqlite_metadata_connection_config(store)
        with narrated(len(pipeline.components), times, folder.state / LOG):
            tfx.orchestration.LocalDagRunner().run(pipeline)
        _copy_outputs(folder, report=not ranker_only)
    return times


def _resolved(location: str) -> UPath:
    path = as_path(location)
    return path.resolve() if is_local(path) else path


def identity_of(settings: Settings, data: str, schema: Schema) -> str:
    """Digest of what makes two runs the same: settings, code, and the files of the log, of `intents` and of `users`."""
    from components.contract.files import Spans
    from mim_keras.config import to_mapping
    from tfx_pipeline.fingerprints import code_fingerprint, data_fingerprint

    chosen = to_mapping(settings)
    spans = Spans(**chosen["data"]["spans"])
    files = data_fingerprint(data, schema, schema.log, "intents", "users", spans=spans)
    by_name = (*(f"run_fns.{stage}" for stage in ("pretrain", "csft", "ciubm")), "preprocessing", "evaluation")
    code = code_fingerprint("tfx_pipeline.pipeline", *(f"tfx_pipeline.{module}" for module in by_name))
    return hashlib.sha256(json.dumps([chosen, data, schema.to_json(), files, code]).encode()).hexdigest()[:16]


def followed_release(root: UPath, identity: str, ranker_only: bool = False) -> Release | None:
    """The release that a run is compared with, and starts from: the current one, unless the run before was the same.

    Then it is the one that this run followed, even where it has published its own since: a run that is killed behind
    that point would else train on from its own result.  A release that was promoted or rolled back since counts.

    Args:
        root: Of the runs.
        identity: Of `identity_of`.
        ranker_only: Whether the run follows none, and leaves no note.
    """
    from serving.releases import ReleaseStore

    releases, note = ReleaseStore(root).list(), root / LAST_RUN
    before = json.loads(note.read_text()) if kind(note) == "file" else {}
    if before.get("identity") == identity:
        since = [release for release in releases if release.version > before["follows"]]
        if len(since) <= 1 and not any(release.restored_from for release in since):
            return next((release for release in releases if release.version == before["follows"]), None)
    current = next(iter(releases), None)
    if not ranker_only:
        write_text(note, json.dumps({"identity": identity, "follows": current.version if current else 0}))
    return current


def _present(release: Release | None) -> Release | None:
    """The release whose parts are where its record says; None where they are gone, as after a root was moved."""
    gone = [] if release is None else [path for path in release.sources.values() if not as_path(path).exists()]
    if gone:
        say(f"the last release is not compared with, and not trained on: {gone[0]} is gone. Was the root moved?")
        return None
    return release


def _copy_outputs(root: Root, report: bool) -> None:
    """Puts the rejected rows and the report of the run that has just ended where people look, whether these were made
    anew or reused."""
    from components.contract.counts import REJECTED_FOLDER
    from tfx_pipeline.runners.lineage import newest, open_store

    store = open_store(root.location)
    remove_tree(root.location / REJECTED_FOLDER)
    for node, output in ROW_OUTPUTS:
        made = newest(store, node, output)
        if made is None:
            continue
        source = as_path(made.uri) / REJECTED_FOLDER
        for name in find(source):
            write_text(root.location / REJECTED_FOLDER / name, (source / name).read_text())
    made = newest(store, "ReportGen", "report") if report else None
    if made is not None:
        write_text(root.location / PAGE, (as_path(made.uri) / PAGE).read_text())
