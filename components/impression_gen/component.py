"""`ImpressionGen`: the `impressions` table, or a log of events → Examples with splits `train`, `valid` and `test`."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.impression_gen.executor import Executor


class ImpressionGenSpec(ComponentSpec):
    """Parameters, inputs and outputs of `ImpressionGen`."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "spans": ExecutionParameter(type=str),
        "rejected_folder": ExecutionParameter(type=str),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "split": ExecutionParameter(type=str),
        "schema": ExecutionParameter(type=str),
        "input_fingerprint": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS = {"items": ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"impressions": ChannelParameter(type=standard_artifacts.Examples)}


class ImpressionGen(base_beam_component.BaseBeamComponent):
    """Reads `impressions`, or joins `events` into them, checks every row, and splits by time.

    Args:
        items: The catalogue; an impression of an item it lacks is rejected.
        split_by: `time` (one boundary for all: no valid row is earlier than a train row) or `user` (each user's
            own first, next and last rows).
        schema: JSON of `Schema`; where it has `events`, these are joined (`components.contract.events`).
        fractions: Shares of rows for train, valid and test.
        new_items: One item in so many is launched only with the test: its earlier rows are held back; 0 for none.

    Features: `user_id`, `item_id`, `timestamp` (seconds), `sequence`, `clicked` (0 or 1), the context features, and
    `clicked_at` (seconds, 0 where it was not clicked) of events.
    """

    SPEC_CLASS = ImpressionGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        items: types.BaseChannel,
        data: str,
        spans: dict[str, Any],
        rejected_folder: str,
        max_rejected_fraction: float,
        split_by: str,
        fractions: tuple[float, ...],
        new_items: int,
        schema: str,
        input_fingerprint: str,
        code_fingerprint: str,
    ) -> None:
        spec = ImpressionGenSpec(
            items=items,
            data=data,
            spans=json.dumps(spans),
            rejected_folder=rejected_folder,
            max_rejected_fraction=max_rejected_fraction,
            split=json.dumps({"by": split_by, "fractions": list(fractions), "new_items": new_items}),
            schema=schema,
            input_fingerprint=input_fingerprint,
            code_fingerprint=code_fingerprint,
            impressions=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
