"""Tables → items, impressions, ranking examples and pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow_data_validation as tfdv

from components.catalogue_gen.component import CatalogueGen
from components.content_attributes.component import ContentAttributes
from components.contract.files import Spans
from components.history_gen.component import HistoryGen
from components.impression_gen.component import ImpressionGen
from components.pair_gen.component import PairGen
from mim_keras.config import to_mapping
from tfx_pipeline.fingerprints import data_fingerprint
from tfx_pipeline.pipeline.nodes import Checks, Run, check_nodes, component_code

# Pictures are not watched byte by byte; `modalities` says which there are.
MONITORED_ITEM_FEATURES = ("item_id", "title", "text", "category", "created_at", "modalities")


@dataclass(frozen=True)
class DataNodes:
    """The data components and their checks.

    Attributes:
        catalogue, impressions, attributes, histories, pairs: The components; `attributes` are none or one.
        items: The channel of the items, with attributes that are learned from content where these are asked for.
        item_checks, example_checks: TFDV's.
    """

    catalogue: Any
    impressions: Any
    attributes: list[Any]
    items: Any
    histories: Any
    pairs: Any
    item_checks: Checks
    example_checks: Checks

    @property
    def nodes(self) -> list[Any]:
        """In order."""
        generators = [self.catalogue, self.impressions, *self.attributes, self.histories, self.pairs]
        return [*generators, *self.item_checks.nodes, *self.example_checks.nodes]


def data_nodes(run: Run) -> DataNodes:
    """The components from the tables to what the stages train on."""
    data, schema, reader = run.settings.data, run.schema, run.reader_parameters()

    def inputs(*tables: str) -> str:
        known = run.paths.data_version
        return known or data_fingerprint(run.paths.data, schema, *tables, spans=Spans(**run.spans))

    catalogue = CatalogueGen(
        **reader, input_fingerprint=inputs("items"), code_fingerprint=component_code("catalogue_gen")
    )
    items = catalogue.outputs["items"]
    impressions = ImpressionGen(
        items=items,
        **reader,
        split=to_mapping(data.split),
        input_fingerprint=inputs(schema.log),
        code_fingerprint=component_code("impression_gen"),
    )
    attributes, described = [], items
    if data.learns_attributes:
        attributes = [
            ContentAttributes(
                items=items,
                impressions=impressions.outputs["impressions"],
                clusters=data.content_clusters,
                words=data.content_words,
                code_fingerprint=component_code("content_attributes"),
            )
        ]
        described = attributes[0].outputs["described"]
    histories = HistoryGen(
        impressions=impressions.outputs["impressions"],
        items=described,
        **reader,
        history_length=run.settings.stages.ciubm.history_length,
        cold_max_clicks=data.cold_max_clicks,
        new_items=data.split.new_items,
        statistics_spec=data.statistics_spec(run.described_schema),
        input_fingerprint=inputs("users"),
        code_fingerprint=component_code("history_gen"),
    )
    pairs = PairGen(
        items=items,
        impressions=impressions.outputs["impressions"],
        **reader,
        **to_mapping(data.pairs),
        input_fingerprint=inputs("intents"),
        code_fingerprint=component_code("pair_gen"),
    )
    options = tfdv.StatsOptions(feature_allowlist=list(MONITORED_ITEM_FEATURES))
    item_checks = check_nodes(run, "items", items, options)
    example_checks = check_nodes(run, "examples", histories.outputs["examples"])
    return DataNodes(catalogue, impressions, attributes, described, histories, pairs, item_checks, example_checks)
