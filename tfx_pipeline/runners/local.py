"""Runs the graph in this process, one node after the other, and says what it is doing."""

from __future__ import annotations

import contextlib
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

from serving.releases import Release
from serving.storage import as_path, find, is_local, remove_tree, write_text
from tfx_pipeline.runners.root import LOG, METADATA, Root, RootBusyError
from tfx_pipeline.settings import Settings

__all__ = ["NodeTimes", "RootBusyError", "narrated", "run", "say"]

PAGE = "report.html"
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

    Nodes whose inputs, settings and code did not change reuse their last result.

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
    from serving.releases import ReleaseStore
    from tfx_pipeline.pipeline import RunPaths, create_pipeline

    folder, times = Root(root if not is_local(root) else Path(root).resolve()), NodeTimes()
    data = data if not is_local(data) else str(Path(data).resolve())
    with folder.written():
        released = _present(ReleaseStore(folder.location).current())
        if settings.warm_start:
            say(f"warm start: {f'from release {released.version}' if released else 'no release yet, so from scratch'}")
        remove_tree(folder.location / "rejected")  # of the run before
        run_id = datetime.now(UTC).isoformat()
        paths = RunPaths(data, str(folder.location), released, settings.warm_start, run_id=run_id)
        pipeline = create_pipeline(settings, paths, load_schema(paths.data), ranker_only)
        store = str(folder.state / METADATA)
        pipeline.metadata_connection_config = metadata.sqlite_metadata_connection_config(store)
        with narrated(len(pipeline.components), times, folder.state / LOG):
            tfx.orchestration.LocalDagRunner().run(pipeline)
        _copy_outputs(folder, report=not ranker_only)
    return times


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
