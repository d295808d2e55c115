"""`StageTrainer`: TFX's Trainer, which may also be given the catalogue and a snapshot."""

from __future__ import annotations

from typing import Any

from tfx.proto import trainer_pb2
from tfx.types import standard_artifacts
from tfx.types.system_executions import Train

from components.artifacts import ItemEmbeddings
from components.component import Component, InputArtifact, OutputArtifact, Parameter
from components.stage_trainer.executor import Executor


class StageTrainer(Component, executor=Executor, execution_type=Train):
    """Runs `run_fn(fn_args)` as TFX's Trainer does.

    Args:
        examples: What the stage trains on.
        run_fn: Dotted path of the function.
        custom_config: Plain values for the function; the folders of the optional inputs are added to it as
            `catalogue`, `embeddings` and `statistics_table`.
        transform_graph: Of the examples, where they are transformed.
        base_model: The stage before.
        catalogue: Items, where the stage reads content.
        embeddings: The snapshot, where the stage reads vectors.
        statistics_table: From HistoryGen, where the stage exports them.
    """

    examples: InputArtifact[standard_artifacts.Examples]
    transform_graph: InputArtifact[standard_artifacts.TransformGraph] = None
    base_model: InputArtifact[standard_artifacts.Model] = None
    catalogue: InputArtifact[standard_artifacts.Examples] = None
    embeddings: InputArtifact[ItemEmbeddings] = None
    statistics_table: InputArtifact[standard_artifacts.Examples] = None
    run_fn: Parameter[str]
    custom_config: Parameter[dict[str, Any]]
    train_args: Parameter[trainer_pb2.TrainArgs] = trainer_pb2.TrainArgs(splits=["train"])
    eval_args: Parameter[trainer_pb2.EvalArgs] = trainer_pb2.EvalArgs(splits=["valid"])
    model: OutputArtifact[standard_artifacts.Model]
    model_run: OutputArtifact[standard_artifacts.ModelRun]
