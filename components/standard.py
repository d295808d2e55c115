"""TFX's own components, for artifacts on any file system; see `components.storage`."""

from __future__ import annotations

from tfx import v1 as tfx
from tfx.components.evaluator import executor as evaluator
from tfx.components.schema_gen import executor as schema_gen
from tfx.components.statistics_gen import executor as statistics_gen
from tfx.components.transform import executor as transform
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec, ExecutorClassSpec

from components.storage import on_local_disk


class StatisticsGenExecutor(statistics_gen.Executor):
    """TFX's."""

    Do = on_local_disk(statistics_gen.Executor.Do)


class SchemaGenExecutor(schema_gen.Executor):
    """TFX's."""

    Do = on_local_disk(schema_gen.Executor.Do)


class TransformExecutor(transform.Executor):
    """TFX's."""

    Do = on_local_disk(transform.Executor.Do)


class EvaluatorExecutor(evaluator.Executor):
    """TFX's."""

    Do = on_local_disk(evaluator.Executor.Do)


class StatisticsGen(tfx.components.StatisticsGen):
    """TFX's."""

    EXECUTOR_SPEC = BeamExecutorSpec(StatisticsGenExecutor)


class SchemaGen(tfx.components.SchemaGen):
    """TFX's."""

    EXECUTOR_SPEC = ExecutorClassSpec(SchemaGenExecutor)


class Transform(tfx.components.Transform):
    """TFX's."""

    EXECUTOR_SPEC = BeamExecutorSpec(TransformExecutor)


class Evaluator(tfx.components.Evaluator):
    """TFX's."""

    EXECUTOR_SPEC = BeamExecutorSpec(EvaluatorExecutor)
