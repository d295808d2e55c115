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
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfx_pipeline.settings import Settings

_RUNNING = re.compile(r"Component (\S+) is running\.")
_FINISHED = re.compile(r"Component (\S+) is finished\.")
_TOLD = re.compile(r"^(table |baselines: |snapshot of |beam )")


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
        elif _TOLD.search(message) or record.name == "mim":
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
    absl_logging.set_verbosity(absl_logging.INFO)
    loggers = [logging.getLogger(), absl_logging.get_absl_logger(), logging.getLogger("tensorflow")]
    previous, level = [logger.handlers[:] for logger in loggers], loggers[0].level
    for logger in loggers[1:]:  # to the root logger alone, so that nothing is told twice
        logger.handlers[:], logger.propagate = [], True
    loggers[0].handlers[:] = [to_file, narrator]
    loggers[0].setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers in zip(loggers, previous, strict=True):
            logger.handlers[:] = handlers
        loggers[0].setLevel(level)
        to_file.close()


def run(settings: Settings, data: str, root: str, data_only: bool = False) -> NodeTimes:
    """Runs the pipeline, or with `data_only` its data components alone.

    Nodes whose inputs, settings and code did not change reuse their last result.

    Raises:
        ConfigError: a backbone is not there.
        Whatever a node raises; what was done before it is kept and reused by the next run.
    """
    if not data_only:
        settings.require_presets()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfx import v1 as tfx
    from tfx.orchestration import metadata

    from components.contract.files import load_schema
    from tfx_pipeline.pipeline import Places, create_pipeline
    from tfx_pipeline.runners.lineage import last_models

    places = Places(str(Path(data).resolve()), str(Path(root).resolve()))
    Path(places.root).mkdir(parents=True, exist_ok=True)
    encoder, ranker = last_models(places.metadata)
    places = replace(places, released_ranker=ranker)
    if settings.warm_start:
        places = replace(places, last_encoder=encoder, last_ranker=ranker)
        say(f"warm start: {f'encoder {encoder}, ranker {ranker}' if encoder else 'no earlier run, so from the first'}")
    pipeline = create_pipeline(settings, places, load_schema(places.data), data_only)
    pipeline.metadata_connection_config = metadata.sqlite_metadata_connection_config(places.metadata)
    times = NodeTimes()
    with narrated(len(pipeline.components), times, Path(places.root) / "run.log"):
        tfx.orchestration.LocalDagRunner().run(pipeline)
    return times
