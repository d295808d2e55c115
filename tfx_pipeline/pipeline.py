"""The graph, readable from top to bottom as the data flows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from tfx import v1 as tfx
from tfx.proto import pusher_pb2, transform_pb2
from tfx.types import standard_artifacts

from components.catalogue_gen.component import CatalogueGen
from components.embedding_exporter.component import EmbeddingExporter
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

MODELS = ("mim_encoder", "mim_retrieval", "mim_ranker")


@dataclass(frozen=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        data: Folder that meets the data contract.
        root: Everything a run writes: artifacts, metadata, pushed models, rejected rows, the report.
        has_baseline: Whether a blessed ranker of an earlier run is there to be held against.
        data_version: Stands for the data in the cache, where the folder cannot be looked at (a compiled spec).
    """

    data: str
    root: str
    has_baseline: bool = False
    data_version: str = ""

    @property
    def models(self) -> str:
        """Pushed models, a folder each, as TF Serving reads them."""
        return f"{self.root}/models"

    @property
    def snapshots(self) -> str:
        """Where the last snapshot of each encoder is named, for the next export and the Representation Center."""
        return f"{self.root}/snapshots"

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


def create_pipeline(settings: Settings, places: Places) -> tfx.dsl.Pipeline:
    """The pipeline that `settings` describe, over the data and into the root that `places` name."""
    data, stages = settings.data, settings.stages
    common: dict[str, Any] = {
        "data": places.data,
        "rejected_folder": places.rejected,
        "max_rejected_fraction": data.max_rejected_fraction,
    }

    def inputs(*tables: str) -> str:
        return places.data_version or data_fingerprint(places.data, *tables)

    def code(component: str) -> str:
        shared = ("contract", "artifacts.py", "examples.py", "records.py", component)
        formats = "serving/representation_center/snapshot.py"
        return code_fingerprint(formats, *(f"components/{name}" for name in shared))

    models_code = code_fingerprint("mim_keras", "tfx_pipeline/run_fns", "tfx_pipeline/preprocessing.py")

    # -- the catalogue -----------------------------------------------------------------------------------
    catalogue = CatalogueGen(**common, input_fingerprint=inputs("items"), code_fingerprint=code("catalogue_gen"))
    items = catalogue.outputs["items"]
    item_checks = _statistics_schema_validator("items", items)

    # -- impressions, histories, pairs -------------------------------------------------------------------
    impression_gen = ImpressionGen(
        items=items,
        **common,
        split_by=data.split.by,
        fractions=data.split.fractions,
        context_features=data.context_features,
        input_fingerprint=inputs("impressions"),
        code_fingerprint=code("impression_gen"),
    )
    impressions = impression_gen.outputs["impressions"]
    history_gen = HistoryGen(
        impressions=impressions,
        **common,
        history_length=stages.ciubm.history_length,
        cold_max_clicks=data.cold_max_clicks,
        user_features=data.user_features,
        input_fingerprint=inputs("users"),
        code_fingerprint=code("history_gen"),
    )
    examples = history_gen.outputs["examples"]
    pair_gen = PairGen(
        items=items,
        impressions=impressions,
        **common,
        **to_mapping(data.pairs),
        input_fingerprint=inputs("intents"),
        code_fingerprint=code("pair_gen"),
    )

    # -- stages 1 and 2: the encoder ----------------------------------------------------------------------
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
    encoder = csft.outputs["model"]
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
    example_checks = _statistics_schema_validator("examples", examples)
    _, schema_gen, _ = example_checks
    transform = tfx.components.Transform(
        examples=examples,
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="tfx_pipeline.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "valid"]),
        disable_statistics=True,
        custom_config={
            "categorical_features": list(data.categorical_features),
            "vocabulary_min_count": data.vocabulary_min_count,
        },
    )

    def ranker(config: CiubmConfig) -> StageTrainer:
        return StageTrainer(
            examples=transform.outputs["transformed_examples"],
            transform_graph=transform.outputs["transform_graph"],
            catalogue=items,
            embeddings=embeddings,
            run_fn="tfx_pipeline.run_fns.ciubm.run_fn",
            custom_config={
                "ciubm": to_mapping(config),
                "context_features": list(data.categorical_features),
                "code": models_code,
            },
        )

    ciubm = ranker(stages.ciubm).with_id("Trainer.ciubm")
    baseline = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("LatestBlessedRanker")
    evaluator = tfx.components.Evaluator(
        examples=examples,
        example_splits=["test"],
        model=ciubm.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(settings.evaluation, has_baseline=places.has_baseline),
    )
    push_ranker = _pusher(
        "mim_ranker", places, model=ciubm.outputs["model"], model_blessing=evaluator.outputs["blessing"]
    )

    # -- what the content is worth: the same ranker with ids alone -----------------------------------------
    comparison: list[Any] = []
    if settings.evaluation.ids_only_comparison:
        ids_only = ranker(replace(stages.ciubm, modal=False, fusion=False)).with_id("Trainer.ids_only")
        ids_only_evaluator = tfx.components.Evaluator(
            examples=examples,
            example_splits=["test"],
            model=ids_only.outputs["model"],
            eval_config=eval_config(settings.evaluation, gated=False),
        ).with_id("Evaluator.ids_only")
        comparison = [ids_only, ids_only_evaluator]

    report = ReportGen(
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        ids_only_evaluation=comparison[1].outputs["evaluation"] if comparison else None,
        pretrain_run=pretrain.outputs["model_run"],
        csft_run=csft.outputs["model_run"],
        ciubm_run=ciubm.outputs["model_run"],
        items=items,
        impressions=impressions,
        pairs=pair_gen.outputs["pairs"],
        embeddings=embeddings,
        name=settings.name,
        data=places.data,
        settings=json.dumps(to_mapping(settings), indent=2),
        page=places.report,
        code_fingerprint=code("report_gen"),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=settings.name,
        pipeline_root=f"{places.root}/artifacts",
        components=[
            catalogue,
            *item_checks,
            impression_gen,
            history_gen,
            pair_gen,
            pretrain,
            csft,
            exporter,
            index,
            push_encoder,
            push_index,
            *example_checks,
            transform,
            ciubm,
            baseline,
            evaluator,
            push_ranker,
            *comparison,
            report,
        ],
        enable_cache=True,
        beam_pipeline_args=list(settings.beam_args),
    )


def _statistics_schema_validator(name: str, examples: Any) -> tuple[Any, Any, Any]:
    """TFDV's three: statistics of the examples, a schema inferred from them, and each split held against it."""
    statistics = tfx.components.StatisticsGen(examples=examples).with_id(f"StatisticsGen.{name}")
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True).with_id(
        f"SchemaGen.{name}"
    )
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    ).with_id(f"ExampleValidator.{name}")
    return statistics, schema, validator


def _pusher(model_name: str, places: Places, **channels: Any) -> Any:
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=f"{places.models}/{model_name}")
    )
    return tfx.components.Pusher(push_destination=destination, **channels).with_id(f"Pusher.{model_name}")
