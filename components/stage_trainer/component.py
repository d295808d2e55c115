"""`StageTrainer`: TFX's Trainer, which may also be given the catalogue and a snapshot."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec
from tfx.utils import json_utils

from components.artifacts import ItemEmbeddings
from components.stage_trainer.executor import Executor


class StageTrainerSpec(ComponentSpec):
    """`TrainerSpec` and three optional inputs."""

    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.TrainerSpec.INPUTS,
        "catalogue": ChannelParameter(type=standard_artifacts.Examples, optional=True),
        "embeddings": ChannelParameter(type=ItemEmbeddings, optional=True),
        "statistics_table": ChannelParameter(type=standard_artifacts.Examples, optional=True),
    }
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS
    TYPE_ANNOTATION = standard_component_specs.TrainerSpec.TYPE_ANNOTATION


class StageTrainer(base_component.BaseComponent):
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

    SPEC_CLASS = StageTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        run_fn: str,
        custom_config: dict[str, Any],
        transform_graph: types.BaseChannel | None = None,
        base_model: types.BaseChannel | None = None,
        catalogue: types.BaseChannel | None = None,
        embeddings: types.BaseChannel | None = None,
        statistics_table: types.BaseChannel | None = None,
    ) -> None:
        spec = StageTrainerSpec(
            examples=examples,
            transform_graph=transform_graph,
            base_model=base_model,
            catalogue=catalogue,
            embeddings=embeddings,
            statistics_table=statistics_table,
            train_args=trainer_pb2.TrainArgs(splits=["train"]),
            eval_args=trainer_pb2.EvalArgs(splits=["valid"]),
            run_fn=run_fn,
            custom_config=json_utils.dumps(custom_config),
            model=types.Channel(type=standard_artifacts.Model),
            model_run=types.Channel(type=standard_artifacts.ModelRun),
        )
        super().__init__(spec=spec)
