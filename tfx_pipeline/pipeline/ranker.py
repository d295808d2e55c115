"""Stage 3 and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfx.proto import transform_pb2

from components.baseline_check.component import BaselineCheck
from components.stage_trainer.component import StageTrainer
from components.standard import Evaluator, Transform
from mim_keras.config import CiubmConfig, to_mapping
from tfx_pipeline.evaluation import eval_config
from tfx_pipeline.fingerprints import code_fingerprint
from tfx_pipeline.pipeline.data import DataNodes
from tfx_pipeline.pipeline.encoder import EncoderNodes, trainer_code
from tfx_pipeline.pipeline.nodes import Run, component_code


@dataclass(frozen=True)
class RankerNodes:
    """The ranker, its evaluation, and the same ranker with ids alone.

    Attributes:
        transform: tf.Transform.
        trainer, evaluator, baseline_check: Of the ranker.
        importers: What comes from the last release.
        ids_only: Trainer and Evaluator of the ranker with ids alone; empty where it is not asked for.
    """

    transform: Any
    trainer: Any
    evaluator: Any
    baseline_check: Any
    importers: list[Any]
    ids_only: list[Any]

    @property
    def nodes(self) -> list[Any]:
        """In order."""
        judged = [self.trainer, self.evaluator, self.baseline_check]
        return [self.transform, *self.importers, *judged, *self.ids_only]


def ranker_nodes(run: Run, data: DataNodes, encoder: EncoderNodes) -> RankerNodes:
    """Trains and judges the ranker."""
    settings = run.settings
    examples, by_launch = data.histories.outputs["examples"], settings.data.split.new_items > 0
    transform = Transform(
        examples=examples,
        schema=data.example_checks.schema.outputs["schema"],
        preprocessing_fn="tfx_pipeline.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "valid"]),
        disable_statistics=True,
        custom_config=settings.data.transform(run.described_schema)
        | {"code": code_fingerprint("tfx_pipeline.preprocessing")},
    )
    transform.add_upstream_node(data.example_checks.check)
    last = run.released("ranker", "LastRanker") if run.paths.warm_start else None
    released = run.released("ranker", "ReleasedRanker")

    def train(config: CiubmConfig, base: Any, name: str) -> Any:
        return _ranker_trainer(run, data, encoder, transform, config, base).with_id(f"Trainer.{name}")

    def evaluate(trainer: Any, baseline: Any, gated: bool) -> Any:
        return Evaluator(
            examples=examples,
            example_splits=["test"],
            model=trainer.outputs["model"],
            baseline_model=baseline.outputs["result"] if baseline else None,
            eval_config=eval_config(
                settings.evaluation,
                gated=gated,
                has_baseline=baseline is not None,
                by_launch=by_launch,
                code=code_fingerprint("tfx_pipeline.evaluation"),
                labels=settings.stages.ciubm.label_outputs,
            ),
        )

    trainer = train(settings.stages.ciubm, last, "ciubm")
    evaluator = evaluate(trainer, released, gated=True)
    baseline_check = BaselineCheck(
        examples=examples,
        items=data.items,
        embeddings=encoder.exporter.outputs["embeddings"],
        model=trainer.outputs["model"],
        evaluated=evaluator.outputs["blessing"],
        features=settings.data.baseline_features(run.described_schema),
        must_beat=settings.evaluation.must_beat_baselines,
        code_fingerprint=component_code("baseline_check"),
    )
    ids_only: list[Any] = []
    if settings.evaluation.ids_only_comparison:
        ids_trainer = train(settings.stages.ciubm.without_content(), None, "ids_only")
        ids_only = [ids_trainer, evaluate(ids_trainer, None, gated=False).with_id("Evaluator.ids_only")]
    importers = [node for node in (last, released) if node is not None]
    return RankerNodes(transform, trainer, evaluator, baseline_check, importers, ids_only)


def _ranker_trainer(
    run: Run, data: DataNodes, encoder: EncoderNodes, transform: Any, config: CiubmConfig, base: Any
) -> StageTrainer:
    statistics = data.histories.outputs["statistics_table"] if run.settings.data.statistics.enabled else None
    return StageTrainer(
        base_model=base.outputs["result"] if base else None,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        catalogue=data.items,
        embeddings=encoder.exporter.outputs["embeddings"],
        statistics_table=statistics,
        run_fn="tfx_pipeline.run_fns.ciubm.run_fn",
        custom_config={
            "ciubm": to_mapping(config),
            "transform": run.settings.data.transform(run.described_schema),
            "item_attributes": run.described_schema.items.features("items"),
        },
        code_fingerprint=trainer_code("ciubm"),
    )
