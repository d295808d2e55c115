"""The graph, readable from top to bottom as the data flows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tensorflow_data_validation as tfdv
from tfx import v1 as tfx
from tfx.proto import pusher_pb2, transform_pb2
from tfx.types import standard_artifacts

from components.baseline_check.component import BaselineCheck
from components.catalogue_gen.component import CatalogueGen
from components.contract.files import Spans
from components.contract.schema import Schema
from components.embedding_exporter.component import EmbeddingExporter
from components.engine import beam_flags
from components.example_check.component import ExampleCheck
from components.history_gen.component import HistoryGen
from components.impression_gen.component import ImpressionGen
from components.pair_gen.component import PairGen
from components.report_gen.component import ReportGen
from components.retrieval_index.component import RetrievalIndex
from components.stage_trainer.component import StageTrainer
from mim_keras.config import CiubmConfig, to_mapping
from tfx_pipeline.evaluation import eval_config
from tfx_pipeline.fingerprints import code_fingerprint, data_fingerprint
from tfx_pipeline.settings import Settings

# Pictures are not watched byte by byte; `modalities` tells where they are.
WATCHED_OF_ITEMS = ("item_id", "title", "text", "category", "created_at", "modalities")
MODELS = ("mim_encoder", "mim_retrieval", "mim_ranker")


@dataclass(frozen=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        data: Folder that meets the data contract.
        root: Everything a run writes: artifacts, metadata, pushed models, rejected rows, the report.
        released_ranker: Folder of the last released ranker, which a new one is held against; empty where there is none.
        data_version: Stands for the data in the cache, where the folder cannot be looked at (a compiled spec).
        last_encoder, last_ranker: Folders of an earlier run's models, for a warm start; empty where there are none.
    """

    data: str
    root: str
    released_ranker: str = ""
    data_version: str = ""
    last_encoder: str = ""
    last_ranker: str = ""

    @property
    def models(self) -> str:
        """Pushed models, a folder each, as TF Serving reads them."""
        return f"{self.root}/models"

    @property
    def snapshots(self) -> str:
        """Where the last snapshot of each encoder is named, for the next export and the Representation Center."""
        return f"{self.root}/snapshots"

    @property
    def accepted(self) -> str:
        """Statistics of the data that passed last."""
        return f"{self.root}/accepted"

    @property
    def rejected(self) -> str:
        """Rows that broke the contract."""
        return f"{self.root}/rejected"

    @property
    def report(self) -> str:
        """The page that tells of the newest run."""
        return f"{self.root}/report.html"

    @property
    def metadata(self) -> str:
        """The ML Metadata store of local runs."""
        return f"{self.root}/metadata.sqlite"


def create_pipeline(settings: Settings, places: Places, schema: Schema, data_only: bool = False) -> tfx.dsl.Pipeline:
    """The pipeline that `settings` describe, over the data and into the root that `places` name.

    Args:
        settings: What to do.
        places: Where.
        schema: Of the tables.
        data_only: Only the components that make items, impressions, ranking examples and pairs.
    """
    settings = settings.for_schema(schema)
    data, stages = settings.data, settings.stages
    common: dict[str, Any] = {
        "data": places.data,
        "schema": schema.to_json(),
        "rejected_folder": places.rejected,
        "max_rejected_fraction": data.max_rejected_fraction,
    }

    spans = to_mapping(data.spans)

    def inputs(*tables: str, **spans: Any) -> str:
        return places.data_version or data_fingerprint(places.data, schema, *tables, spans=Spans(**spans))

    def code(component: str) -> str:
        shared = (
            "contract",
            "artifacts.py",
            "columns.py",
            "engine.py",
            "examples.py",
            "item_attributes.py",
            "metrics.py",
            "new_items.py",
            "records.py",
            "sharded_files.py",
            "splits.py",
            component,
        )
        formats = ("serving/representation_center/snapshot.py", "serving/representation_center/images.py")
        return code_fingerprint(*formats, *(f"components/{name}" for name in shared))

    def checks(table: str, statistics: Any) -> tuple[Any, Any]:
        """TFDV's other two: a schema inferred from statistics, and each split held against that, or the kept one."""
        schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
        check = ExampleCheck(
            statistics=statistics.outputs["statistics"],
            schema=schema.with_id(f"SchemaGen.{table}").outputs["schema"],
            table=table,
            kept_schema=data.kept_schema(table),
            accepted=f"{places.accepted}/{table}",
            stop=data.stop_on_anomalies,
            code_fingerprint=code("example_check"),
        ).with_id(f"ExampleCheck.{table}")
        return schema, check

    models_code = code_fingerprint("mim_keras", "tfx_pipeline/run_fns", "tfx_pipeline/preprocessing.py")

    # -- the catalogue -----------------------------------------------------------------------------------
    catalogue = CatalogueGen(**common, input_fingerprint=inputs("items"), code_fingerprint=code("catalogue_gen"))
    items = catalogue.outputs["items"]
    item_statistics = tfx.components.StatisticsGen(
        examples=items, stats_options=tfdv.StatsOptions(feature_allowlist=list(WATCHED_OF_ITEMS))
    ).with_id("StatisticsGen.items")
    item_schema, item_check = checks("items", item_statistics)

    # -- impressions, histories, pairs -------------------------------------------------------------------
    impression_gen = ImpressionGen(
        items=items,
        **common,
        split_by=data.split.by,
        fractions=data.split.fractions,
        new_items=data.split.new_items,
        spans=spans,
        input_fingerprint=inputs(schema.log, **spans),
        code_fingerprint=code("impression_gen"),
    )
    impressions = impression_gen.outputs["impressions"]
    history_gen = HistoryGen(
        impressions=impressions,
        items=items,
        **common,
        history_length=stages.ciubm.history_length,
        cold_max_clicks=data.cold_max_clicks,
        new_items=data.split.new_items,
        statistics_spec=data.statistics_spec(schema),
        input_fingerprint=inputs("users"),
        code_fingerprint=code("history_gen"),
    )
    examples = history_gen.outputs["examples"]
    pair_gen = PairGen(
        items=items,
        impressions=impressions,
        **common,
        **to_mapping(data.pairs),
        spans=spans,
        input_fingerprint=inputs("intents", **spans),
        code_fingerprint=code("pair_gen"),
    )

    # -- stages 1 and 2: the encoder ----------------------------------------------------------------------
    stages_1_and_2: list[Any] = []
    if places.last_encoder:
        last_encoder = _model_of(places.last_encoder, "LastEncoder")
        stages_1_and_2, encoder = [last_encoder], last_encoder.outputs["result"]
    else:
        pretrain = StageTrainer(
            examples=items,
            catalogue=items,
            run_fn="tfx_pipeline.run_fns.pretrain.run_fn",
            custom_config={
                "encoder": to_mapping(stages.encoder),
                "pretrain": to_mapping(stages.pretrain),
                "code": models_code,
            },
        ).with_id("Trainer.pretrain")
        csft = StageTrainer(
            examples=pair_gen.outputs["pairs"],
            catalogue=items,
            base_model=pretrain.outputs["model"],
            run_fn="tfx_pipeline.run_fns.csft.run_fn",
            custom_config={"csft": to_mapping(stages.csft), "code": models_code},
        ).with_id("Trainer.csft")
        pretrain.add_upstream_node(item_check)  # nothing is learned from items that did not pass
        stages_1_and_2, encoder = [pretrain, csft], csft.outputs["model"]
    exporter = EmbeddingExporter(
        items=items,
        encoder=encoder,
        snapshots=places.snapshots,
        **to_mapping(settings.embeddings),
        code_fingerprint=code("embedding_exporter"),
    )
    embeddings = exporter.outputs["embeddings"]
    index = RetrievalIndex(
        embeddings=embeddings, neighbours=settings.retrieval_neighbours, code_fingerprint=code("retrieval_index")
    )
    push_encoder = _pusher("mim_encoder", places, model=encoder)
    push_index = _pusher("mim_retrieval", places, model=index.outputs["model"])

    # -- stage 3: the ranker -------------------------------------------------------------------------------
    example_statistics = tfx.components.StatisticsGen(examples=examples).with_id("StatisticsGen.examples")
    example_schema, example_check = checks("examples", example_statistics)
    transform = tfx.components.Transform(
        examples=examples,
        schema=example_schema.outputs["schema"],
        preprocessing_fn="tfx_pipeline.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "valid"]),
        disable_statistics=True,
        custom_config=data.transform(schema),
    )

    transform.add_upstream_node(example_check)

    last_ranker = [_model_of(places.last_ranker, "LastRanker")] if places.last_ranker else []

    def ranker(config: CiubmConfig, base: Any = None) -> StageTrainer:
        return StageTrainer(
            base_model=base,
            examples=transform.outputs["transformed_examples"],
            transform_graph=transform.outputs["transform_graph"],
            catalogue=items,
            embeddings=embeddings,
            statistics_table=history_gen.outputs["statistics_table"] if data.statistics.enabled else None,
            run_fn="tfx_pipeline.run_fns.ciubm.run_fn",
            custom_config={
                "ciubm": to_mapping(config),
                "transform": data.transform(schema),
                "item_attributes": schema.items.features("items"),
                "code": models_code,
            },
        )

    ciubm = ranker(stages.ciubm, *(last.outputs["result"] for last in last_ranker)).with_id("Trainer.ciubm")
    released = [_model_of(places.released_ranker, "ReleasedRanker")] if places.released_ranker else []
    by_launch = data.split.new_items > 0
    evaluator = tfx.components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=ciubm.outputs["model"],
        baseline_model=released[0].outputs["result"] if released else None,
        eval_config=eval_config(settings.evaluation, has_baseline=bool(released), by_launch=by_launch),
    )
    baseline_check = BaselineCheck(
        examples=examples,
        items=items,
        embeddings=embeddings,
        model=ciubm.outputs["model"],
        evaluated=evaluator.outputs["blessing"],
        features=data.baseline_features(schema),
        must_beat=settings.evaluation.must_beat_baselines,
        code_fingerprint=code_fingerprint("components", "mim_keras/metrics", "mim_keras/layers/item_table.py"),
    )
    blessing = baseline_check.outputs["blessing"]
    push_ranker = _pusher("mim_ranker", places, model=ciubm.outputs["model"], model_blessing=blessing)

    # -- what the content is worth: the same ranker with ids alone -----------------------------------------
    comparison: list[Any] = []
    if settings.evaluation.ids_only_comparison:
        ids_only = ranker(stages.ciubm.without_content()).with_id("Trainer.ids_only")
        ids_only_evaluator = tfx.components.Evaluator(
            examples=examples,
            example_splits=["test"],
            model=ids_only.outputs["model"],
            eval_config=eval_config(settings.evaluation, gated=False, by_launch=by_launch),
        ).with_id("Evaluator.ids_only")
        comparison = [ids_only, ids_only_evaluator]

    report = ReportGen(
        evaluation=evaluator.outputs["evaluation"],
        blessing=blessing,
        comparison=baseline_check.outputs["comparison"],
        ids_only_evaluation=comparison[1].outputs["evaluation"] if comparison else None,
        pretrain_run=None if places.last_encoder else pretrain.outputs["model_run"],
        csft_run=None if places.last_encoder else csft.outputs["model_run"],
        ciubm_run=ciubm.outputs["model_run"],
        items=items,
        impressions=impressions,
        examples=examples,
        pairs=pair_gen.outputs["pairs"],
        embeddings=embeddings,
        name=settings.name,
        data=places.data,
        settings=json.dumps(to_mapping(settings), indent=2),
        page=places.report,
        code_fingerprint=code("report_gen"),
    )
    everything = [
        catalogue,
        item_statistics,
        item_schema,
        item_check,
        impression_gen,
        history_gen,
        pair_gen,
        *stages_1_and_2,
        exporter,
        index,
        push_encoder,
        push_index,
        example_statistics,
        example_schema,
        example_check,
        transform,
        *last_ranker,
        ciubm,
        *released,
        evaluator,
        baseline_check,
        push_ranker,
        *comparison,
        report,
    ]
    return tfx.dsl.Pipeline(
        pipeline_name=settings.name,
        pipeline_root=f"{places.root}/artifacts",
        components=[catalogue, impression_gen, history_gen, pair_gen] if data_only else everything,
        enable_cache=True,
        beam_pipeline_args=beam_flags(settings.beam_args),
    )


def _model_of(folder: str, name: str) -> Any:
    """A model of an earlier run, as it lies there."""
    importer = tfx.dsl.Importer(source_uri=folder, artifact_type=standard_artifacts.Model)
    return importer.with_id(name)


def _pusher(model_name: str, places: Places, **channels: Any) -> Any:
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=f"{places.models}/{model_name}")
    )
    return tfx.components.Pusher(push_destination=destination, **channels).with_id(f"Pusher.{model_name}")
