"""`PairGen`: intents and histories → pairs."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.pair_gen.executor import Executor


class PairGenSpec(ComponentSpec):
    """Parameters, inputs and outputs of `PairGen`."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "schema": ExecutionParameter(type=str),
        "spans": ExecutionParameter(type=str),
        "source": ExecutionParameter(type=str),
        "window_seconds": ExecutionParameter(type=int),
        "max_per_user": ExecutionParameter(type=int),
        "max_gap": ExecutionParameter(type=int),
        "query_length": ExecutionParameter(type=int),
        "hard": ExecutionParameter(type=int),
        "rejected_folder": ExecutionParameter(type=str),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "input_fingerprint": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "items": ChannelParameter(type=standard_artifacts.Examples),
        "impressions": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"pairs": ChannelParameter(type=standard_artifacts.Examples)}


class PairGen(base_beam_component.BaseBeamComponent):
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

    SPEC_CLASS = PairGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        items: types.BaseChannel,
        impressions: types.BaseChannel,
        data: str,
        schema: str,
        spans: dict[str, Any],
        source: str,
        window_seconds: int,
        max_per_user: int,
        max_gap: int,
        query_length: int,
        hard: int,
        rejected_folder: str,
        max_rejected_fraction: float,
        input_fingerprint: str,
        code_fingerprint: str,
    ) -> None:
        spec = PairGenSpec(
            items=items,
            impressions=impressions,
            data=data,
            schema=schema,
            spans=json.dumps(spans),
            source=source,
            window_seconds=window_seconds,
            max_per_user=max_per_user,
            max_gap=max_gap,
            query_length=query_length,
            hard=hard,
            rejected_folder=rejected_folder,
            max_rejected_fraction=max_rejected_fraction,
            input_fingerprint=input_fingerprint,
            code_fingerprint=code_fingerprint,
            pairs=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
