"""`HistoryGen`: impressions → ranking examples with point-in-time histories."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.history_gen.executor import Executor


class HistoryGenSpec(ComponentSpec):
    """Parameters, inputs and outputs of `HistoryGen`."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "history_length": ExecutionParameter(type=int),
        "cold_max_clicks": ExecutionParameter(type=int),
        "new_items": ExecutionParameter(type=int),
        "statistics_spec": ExecutionParameter(type=str),
        "schema": ExecutionParameter(type=str),
        "spans": ExecutionParameter(type=str),
        "rejected_folder": ExecutionParameter(type=str),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "input_fingerprint": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {
        "impressions": ChannelParameter(type=standard_artifacts.Examples),
        "items": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "statistics_table": ChannelParameter(type=standard_artifacts.Examples),
    }


class HistoryGen(base_beam_component.BaseBeamComponent):
    """Gives each impression the user's clicks that were strictly earlier, ids only, most recent last.

    Adds to the impression's features: `history_item_ids` and `history_ages` (seconds between the click and the
    impression), both of the same length, at most `history_length`; `segment` (cold, tail or rest by the item's
    clicks in the training part alone); `launched` (known or new) where `new_items` is not 0, and then new items stand
    in no history; the features of the user that `schema` (JSON of `Schema`) names; and where `statistics_spec` (JSON
    of `StatisticsSpec`) is not empty, the feature `statistics`, see `UserStatistics.of_rows`.

    The output `statistics_table` holds the same counts as of the end of the last completed span, for serving: splits
    `items`, `values` and `users`, see `components.history_gen.statistics_table`.
    """

    SPEC_CLASS = HistoryGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        impressions: types.BaseChannel,
        items: types.BaseChannel,
        data: str,
        history_length: int,
        cold_max_clicks: int,
        new_items: int,
        statistics_spec: str,
        schema: str,
        spans: dict[str, Any],
        rejected_folder: str,
        max_rejected_fraction: float,
        input_fingerprint: str,
        code_fingerprint: str,
    ) -> None:
        spec = HistoryGenSpec(
            impressions=impressions,
            items=items,
            data=data,
            history_length=history_length,
            cold_max_clicks=cold_max_clicks,
            new_items=new_items,
            statistics_spec=statistics_spec,
            schema=schema,
            spans=json.dumps(spans),
            rejected_folder=rejected_folder,
            max_rejected_fraction=max_rejected_fraction,
            input_fingerprint=input_fingerprint,
            code_fingerprint=code_fingerprint,
            examples=types.Channel(type=standard_artifacts.Examples),
            statistics_table=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
