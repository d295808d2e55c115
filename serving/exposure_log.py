"""Which version of a model each user of a canary was shown: what an experiment is evaluated by.

The file holds a JSON object a line: an answered `rank` of a model that has a canary.

| field | holds |
|---|---|
| time | of the answer, seconds since the epoch |
| request_id | of the question, as in logs, spans and `x-request-id` |
| user_id | as the ranker was asked |
| model, share | the model, and the fraction of its users that the canary gets |
| group | `canary` or `control`: what the hash of the user says |
| label | the label that answered, null where a version or the newest was asked |
| version | the version that answered |

`group` differs from `label` while the server has no canary: those users get what the others get.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.request_id import current_request_id

log = logging.getLogger("mim")


@dataclass(frozen=True)
class Exposure:
    """A user was shown the answer of a version; see the module for the fields."""

    user_id: str
    model: str
    share: float
    group: str
    label: str | None
    version: int


class ExposureLog:
    """Appends every exposure to a file; safe among threads, and among processes of one machine.

    Args:
        path: Created where missing.
        max_bytes: The file grows no further; move it away, and it begins again.
    """

    def __init__(self, path: str | Path, max_bytes: int = 1 << 30) -> None:
        self._path, self._max_bytes = Path(path), max_bytes
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self.lost = 0  # exposures that were not written

    def add(self, exposure: Exposure) -> None:
        """Writes the exposure.  A disk or file that is full costs the line, never the answer."""
        about = {"time": round(time.time(), 3), "request_id": current_request_id()}
        line = json.dumps({**about, **asdict(exposure)}).encode() + b"\n"
        with self._lock:
            try:
                with self._path.open("ab", buffering=0) as file:  # one write, so that lines of processes stay whole
                    if file.tell() + len(line) > self._max_bytes:
                        raise OSError(f"it has reached {self._max_bytes:,} bytes; move it away")
                    file.write(line)
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    log.warning("the exposure log %s cannot be written: %s", self._path, error)


def read_exposures(path: str | Path) -> Iterator[dict[str, object]]:
    """The lines of a file that `ExposureLog` wrote; one that was cut off by a crash is left out.

    Raises:
        ValueError: the file is of another kind.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                found = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path} holds no logged exposures (line {number}): {error}") from error
            if not isinstance(found, dict) or "group" not in found:
                raise ValueError(f"{path} holds no logged exposures (line {number}): it has no group")
            yield found
