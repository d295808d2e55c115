"""How one training is timed, ours and the peers' alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

BATCH, EPOCHS, WARM_STEPS = 1024, 8, 40


@dataclass(frozen=True)
class TrainingRun:
    """What one process measured.

    Attributes:
        reading: Seconds from the files to rows in memory.
        compilation: Seconds of making the model, tracing and compiling: from there to the warm state, without the steps
            in between at their warm speed.
        step: Seconds of a warm step, its batch with it.
        steps: Of an epoch.
    """

    reading: float
    compilation: float
    step: float
    steps: int

    @property
    def whole(self) -> float:
        """Seconds of a training of `EPOCHS` epochs, from its files on."""
        return self.reading + self.compilation + EPOCHS * self.steps * self.step


class Stopwatch:
    """Times a training; made when reading begins.

    Args:
        seconds: How long warm steps are timed.
        clock: Seconds that pass.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._begun = seconds, clock, clock()
        self._warm = self._last = (0, 0.0)  # steps until then, time

    def read(self) -> None:
        """Now the rows are in memory."""
        self._read = self._clock()

    def enough(self, steps: int) -> bool:
        """Whether the training may stop, now that it has done so many steps; ask after each, or after several."""
        self._last = (steps, self._clock())
        if not self._warm[0] and steps >= WARM_STEPS:
            self._warm = self._last
        return steps > self._warm[0] > 0 and self._last[1] - self._warm[1] >= self._seconds

    def run(self, steps: int) -> TrainingRun:
        """What was measured, of a training with so many steps an epoch."""
        (first, warm), (last, end) = self._warm, self._last
        step = (end - warm) / (last - first)
        return TrainingRun(self._read - self._begun, warm - self._read - first * step, step, steps)
