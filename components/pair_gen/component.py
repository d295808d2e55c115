"""`PairGen`: intents and histories → pairs."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.component import InputArtifact, OutputArtifact, Parameter, TableReader
from components.pair_gen.executor import Executor


class PairGen(TableReader, executor=Executor):
    """Makes (query, item) pairs: from `intents`, from two clicks of one user close to one another, or from what a user
    had clicked, clicked then, and saw then without clicking.

    Args:
        source: `intents`, `history`, `impressions`, or `auto`: intents where the table is there, else histories; an
            intent is the stronger signal of what was meant.
        window_seconds: Two clicks farther apart make no pair.
        max_per_user: The most pairs of one user; the latest are kept; 0 for all.
        max_gap: A click is paired with at most so many of the clicks that follow it.
        query_length: Of pairs from impressions, the most earlier clicks that are the query.
        hard: Of pairs from impressions, the most items that were seen near the click and not clicked.

    Intents end before the first impression of valid or test, whoever saw it.  Other pairs come from split `train`
    alone; where each user is split by themselves, they may be later than other users' valid or test rows.

    Features: `query_item_ids` (a list), `query_image`, `query_text` (empty where not given), `item_id`,
    `hard_item_ids` (a list), `user_id` (of pairs from impressions), `signal`, `timestamp`.  One pair in ten is in split
    `valid`, by a hash of its item and query, or of its user where that is known.
    """

    items: InputArtifact[standard_artifacts.Examples]
    impressions: InputArtifact[standard_artifacts.Examples]
    source: Parameter[str]
    window_seconds: Parameter[int]
    max_per_user: Parameter[int]
    max_gap: Parameter[int]
    query_length: Parameter[int]
    hard: Parameter[int]
    pairs: OutputArtifact[standard_artifacts.Examples]
