"""`ImpressionGen`: the `impressions` table, or a log of events → Examples with splits `train`, `valid` and `test`."""

from __future__ import annotations

from typing import Any

from tfx.types import standard_artifacts

from components.component import InputArtifact, OutputArtifact, Parameter, TableReader
from components.impression_gen.executor import Executor


class ImpressionGen(TableReader, executor=Executor):
    """Reads `impressions`, or joins `events` into them, checks every row, and splits by time.

    Args:
        items: The catalogue; an impression of an item it lacks is rejected.
        schema: Where it has `events`, these are joined (`components.contract.events`).
        split: `by`, which is `time` (one boundary for all: no valid row is earlier than a train row) or `user` (each
            user's own first, next and last rows); `fractions`, the shares of rows for train, valid and test; and
            `new_items`: one item in so many is launched only with the test, its earlier rows are held back; 0 for none.

    Features: `user_id`, `item_id`, `timestamp` (seconds), `sequence`, `clicked` (0 or 1), the context features, and
    `clicked_at` (seconds, 0 where it was not clicked) of events.
    """

    items: InputArtifact[standard_artifacts.Examples]
    split: Parameter[dict[str, Any]]
    impressions: OutputArtifact[standard_artifacts.Examples]
