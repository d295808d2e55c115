"""`HistoryGen`: impressions → ranking examples with point-in-time histories."""

from __future__ import annotations

from tfx.types import standard_artifacts

from components.component import InputArtifact, OutputArtifact, Parameter, TableReader
from components.history_gen.executor import Executor


class HistoryGen(TableReader, executor=Executor):
    """Gives each impression the user's clicks that were strictly earlier, ids only, most recent last.

    Adds to the impression's features: `history_item_ids` and `history_ages` (seconds between the click and the
    impression), both of the same length, at most `history_length`; `segment` (cold, tail or rest by the item's
    clicks in the training part alone); `launched` (known or new) where `new_items` is not 0, and then new items stand
    in no history; the features of the user that `schema` (JSON of `Schema`) names; and where `statistics_spec` (JSON
    of `StatisticsSpec`) is not empty, the feature `statistics`, see `UserStatistics.of_rows`.

    The output `statistics_table` holds the same counts as of the end of the last completed span, for serving: splits
    `items`, `values` and `users`, see `components.history_gen.statistics_table`.
    """

    impressions: InputArtifact[standard_artifacts.Examples]
    items: InputArtifact[standard_artifacts.Examples]
    history_length: Parameter[int]
    cold_max_clicks: Parameter[int]
    new_items: Parameter[int]
    statistics_spec: Parameter[str]
    examples: OutputArtifact[standard_artifacts.Examples]
    statistics_table: OutputArtifact[standard_artifacts.Examples]
