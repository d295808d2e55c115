"""Stages 1 and 2, the snapshot, and the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.embedding_exporter.component import EmbeddingExporter
from components.retrieval_index.component import RetrievalIndex
from components.stage_trainer.component import StageTrainer
from mim_keras.config import to_mapping
from tfx_pipeline.fingerprints import code_fingerprint
from tfx_pipeline.pipeline.data import DataNodes
from tfx_pipeline.pipeline.nodes import Run, component_code


@dataclass(frozen=True)
class EncoderNodes:
    """The encoder, trained or of the last release, and what it makes of the catalogue.

    Attributes:
        trainers: Stages 1 and 2; empty in a warm start.
        importers: What comes from the last release.
        encoder: Its channel.
        exporter, index: The snapshot and the index.
    """

    trainers: list[Any]
    importers: list[Any]
    encoder: Any
    exporter: Any
    index: Any

    @property
    def nodes(self) -> list[Any]:
        """In order."""
        return [*self.trainers, *self.importers, self.exporter, self.index]

    def model_runs(self) -> dict[str, Any]:
        """Channels of the trainers' logs, by the report's names."""
        names = ("pretrain_run", "csft_run")
        runs = [trainer.outputs["model_run"] for trainer in self.trainers] or [None, None]
        return dict(zip(names, runs, strict=True))


def encoder_nodes(run: Run, data: DataNodes) -> EncoderNodes:
    """Trains the encoder, or takes that of the last release, and encodes the catalogue."""
    items, previous = data.catalogue.outputs["items"], None
    last = run.released("encoder", "LastEncoder") if run.paths.warm_start else None
    trainers, importers = [], []
    if last is None:
        trainers = _stage_trainers(run, data)
        encoder = trainers[-1].outputs["model"]
    else:
        previous = run.released("embeddings", "LastSnapshot")
        encoder, importers = last.outputs["result"], [last, *([previous] if previous else [])]
    exporter = EmbeddingExporter(
        items=items,
        encoder=encoder,
        **to_mapping(run.settings.embeddings),
        previous=previous.outputs["result"] if previous else None,
        code_fingerprint=component_code("embedding_exporter"),
    )
    exporter.add_upstream_node(data.item_checks.check)  # nothing is made of items that did not pass
    index = RetrievalIndex(
        embeddings=exporter.outputs["embeddings"],
        neighbours=run.settings.retrieval_neighbours,
        code_fingerprint=component_code("retrieval_index"),
    )
    return EncoderNodes(trainers, importers, encoder, exporter, index)


def trainer_code(stage: str) -> str:
    """Fingerprint of a stage's run function and of the Trainer's executor."""
    return code_fingerprint(f"tfx_pipeline.run_fns.{stage}", "components.stage_trainer.executor")


def _stage_trainers(run: Run, data: DataNodes) -> list[Any]:
    stages, items = run.settings.stages, data.catalogue.outputs["items"]
    pretrain = StageTrainer(
        examples=items,
        catalogue=items,
        run_fn="tfx_pipeline.run_fns.pretrain.run_fn",
        custom_config={
            "encoder": to_mapping(stages.encoder),
            "pretrain": to_mapping(stages.pretrain),
        },
        code_fingerprint=trainer_code("pretrain"),
    ).with_id("Trainer.pretrain")
    pretrain.add_upstream_node(data.item_checks.check)
    csft = StageTrainer(
        examples=data.pairs.outputs["pairs"],
        catalogue=items,
        base_model=pretrain.outputs["model"],
        run_fn="tfx_pipeline.run_fns.csft.run_fn",
        custom_config={"csft": to_mapping(stages.csft)},
        code_fingerprint=trainer_code("csft"),
    ).with_id("Trainer.csft")
    return [pretrain, csft]
