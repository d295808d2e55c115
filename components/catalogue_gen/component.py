"""`CatalogueGen`: the `items` table → Examples with splits `train` and `valid`."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.catalogue_gen.executor import Executor


class CatalogueGenSpec(ComponentSpec):
    """Parameters and outputs of `CatalogueGen`."""

    PARAMETERS = {
        "data": ExecutionParameter(type=str),
        "schema": ExecutionParameter(type=str),
        "spans": ExecutionParameter(type=str),
        "rejected_folder": ExecutionParameter(type=str),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "input_fingerprint": ExecutionParameter(type=str),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: dict = {}
    OUTPUTS = {"items": ChannelParameter(type=standard_artifacts.Examples)}


class CatalogueGen(base_beam_component.BaseBeamComponent):
    """Reads `items` (Parquet, CSV, TSV), decodes every picture once, and writes one tf.Example an item.

    Features: `item_id`, `title`, `text`, `category`, `image` (bytes; empty where there is none or it cannot be read),
    `created_at` (seconds, 0 where unknown), and the attributes that `schema` (JSON of `Schema`) names, as text.
    One item in ten, by a hash of its id, is in split `valid`.
    Rows that break the contract go to `rejected_folder/items.jsonl`.
    """

    SPEC_CLASS = CatalogueGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        data: str,
        schema: str,
        spans: dict[str, Any],
        rejected_folder: str,
        max_rejected_fraction: float,
        input_fingerprint: str,
        code_fingerprint: str,
    ) -> None:
        spec = CatalogueGenSpec(
            data=data,
            schema=schema,
            spans=json.dumps(spans),
            rejected_folder=rejected_folder,
            max_rejected_fraction=max_rejected_fraction,
            input_fingerprint=input_fingerprint,
            code_fingerprint=code_fingerprint,
            items=types.Channel(type=standard_artifacts.Examples),
        )
        super().__init__(spec=spec)
