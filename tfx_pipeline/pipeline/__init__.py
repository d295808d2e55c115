"""The graph, in four parts: data, encoder, ranker, release."""

from __future__ import annotations

from tfx import v1 as tfx

from components.contract.schema import Schema
from components.engine import beam_flags
from tfx_pipeline.pipeline.data import MONITORED_ITEM_FEATURES, data_nodes
from tfx_pipeline.pipeline.encoder import encoder_nodes
from tfx_pipeline.pipeline.nodes import Run
from tfx_pipeline.pipeline.paths import RunPaths
from tfx_pipeline.pipeline.ranker import ranker_nodes
from tfx_pipeline.pipeline.release import release_nodes
from tfx_pipeline.settings import Settings

__all__ = ["MONITORED_ITEM_FEATURES", "RunPaths", "create_pipeline"]


def create_pipeline(settings: Settings, paths: RunPaths, schema: Schema, ranker_only: bool = False) -> tfx.dsl.Pipeline:
    """The pipeline that `settings` describe.

    Args:
        settings: What to do.
        paths: Where, and after which release.
        schema: Of the tables.
        ranker_only: Only what the ranker is trained by: no evaluation, no index, no release.
    """
    run = Run(settings.for_schema(schema), paths, schema)
    data = data_nodes(run)
    encoder = encoder_nodes(run, data)
    ranker = ranker_nodes(run, data, encoder)
    if ranker_only:
        nodes = [*data.nodes, *encoder.trainers, encoder.exporter, ranker.transform, ranker.trainer]
    else:
        release = release_nodes(run, data, encoder, ranker)
        nodes = [*data.nodes, *encoder.nodes, *ranker.nodes, *release.nodes]
    return tfx.dsl.Pipeline(
        pipeline_name=settings.name,
        pipeline_root=f"{paths.root}/artifacts",
        components=nodes,
        enable_cache=True,
        beam_pipeline_args=beam_flags(settings.beam_args),
    )
