"""Components declared by annotations: their specs, what they take, and what they refuse."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from tfx.dsl.components.base import executor_spec
from tfx.types import channel, standard_artifacts
from tfx.types.system_executions import Train

from components.artifacts import ItemEmbeddings
from components.baseline_check.component import BaselineCheck, BaselineComparison
from components.catalogue_gen.component import CatalogueGen
from components.component import Component, OutputArtifact
from components.embedding_exporter.component import EmbeddingExporter
from components.embedding_exporter.executor import Executor as ExporterExecutor
from components.example_check.component import ExampleCheck
from components.impression_gen.component import ImpressionGen
from components.retrieval_index.executor import Executor
from components.stage_trainer.component import StageTrainer

EXAMPLES = channel.Channel(type=standard_artifacts.Examples)
MODEL = channel.Channel(type=standard_artifacts.Model)
READER: dict[str, Any] = {"data": "/data", "schema": "{}", "spans": {}, "rejected_folder": "/rejected"}
READER |= {"max_rejected_fraction": 0.5, "input_fingerprint": "i", "code_fingerprint": "c"}


def test_annotations_become_the_spec() -> None:
    made = EmbeddingExporter(items=EXAMPLES, encoder=MODEL, code_fingerprint="c", dtype="float16")
    assert set(made.inputs) == {"items", "encoder"}
    assert made.inputs["items"].type is standard_artifacts.Examples
    assert {name: one.type for name, one in made.outputs.items()} == {"embeddings": ItemEmbeddings}
    assert made.exec_properties == {"code_fingerprint": "c", "dtype": "float16", "batch_size": 128}
    assert made.id == "EmbeddingExporter"
    assert made.with_id("other").id == "other"
    assert made.outputs["embeddings"].producer_component_id == "other"
    snapshot = channel.Channel(type=ItemEmbeddings)
    again = EmbeddingExporter(items=EXAMPLES, encoder=MODEL, code_fingerprint="c", previous=snapshot)
    assert again.inputs["previous"] is snapshot
    assert EmbeddingExporter.SPEC_CLASS.INPUTS["previous"].optional
    assert not EmbeddingExporter.SPEC_CLASS.INPUTS["items"].optional


def test_beam_executors_get_the_flags_of_beam() -> None:
    assert type(EmbeddingExporter.EXECUTOR_SPEC) is executor_spec.BeamExecutorSpec
    assert type(BaselineCheck.EXECUTOR_SPEC) is executor_spec.ExecutorClassSpec
    assert EmbeddingExporter.EXECUTOR_SPEC.executor_class is ExporterExecutor
    copied = pickle.loads(pickle.dumps((BaselineCheck.EXECUTOR_SPEC, BaselineCheck.SPEC_CLASS)))
    assert copied[0].class_path == "components.baseline_check.executor.Executor"
    assert copied[1] is BaselineCheck.SPEC_CLASS


def test_readers_share_their_parameters() -> None:
    assert CatalogueGen(**READER).exec_properties == {**READER, "spans": "{}"}
    assert set(CatalogueGen.SPEC_CLASS.PARAMETERS) == set(READER)


def test_truths_are_numbers_and_mappings_are_json() -> None:
    split = {"by": "time", "fractions": (0.8, 0.1, 0.1), "new_items": 0}
    made = ImpressionGen(items=EXAMPLES, split=split, **READER)
    assert json.loads(made.exec_properties["split"]) == {**split, "fractions": [0.8, 0.1, 0.1]}
    assert made.exec_properties["spans"] == "{}"
    given = {"statistics": channel.Channel(type=standard_artifacts.ExampleStatistics)}
    given["schema"] = channel.Channel(type=standard_artifacts.Schema)
    check = ExampleCheck(**given, table="items", kept_schema="", stop=True, code_fingerprint="c")
    assert type(check.exec_properties["stop"]) is int
    assert check.exec_properties["stop"] == 1


def test_the_trainer_records_what_tfxs_own_does() -> None:
    made = StageTrainer(examples=EXAMPLES, run_fn="a.b", custom_config={"b": 1, "a": [2]}, code_fingerprint="c")
    assert made.type_annotation is Train
    assert json.loads(made.exec_properties["train_args"]) == {"splits": ["train"]}
    assert json.loads(made.exec_properties["eval_args"]) == {"splits": ["valid"]}
    assert made.exec_properties["custom_config"] == '{"a": [2], "b": 1}'
    assert {name: one.type for name, one in made.outputs.items()} == {
        "model": standard_artifacts.Model,
        "model_run": standard_artifacts.ModelRun,
    }


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((EXAMPLES,), {}, "EmbeddingExporter: too many positional arguments. It takes, by keyword: code_fingerprint, "),
        ((), {"encoder": ...}, "EmbeddingExporter: missing a required argument: 'encoder'. It takes, .*, encoder,"),
        ((), {"code_fingerprint": ...}, "missing a required argument: 'code_fingerprint'"),
        ((), {"encoders": MODEL}, "got an unexpected keyword argument 'encoders'"),
        ((), {"embeddings": channel.Channel(type=ItemEmbeddings)}, "got an unexpected keyword argument 'embeddings'"),
        ((), {"encoder": EXAMPLES}, "encoder should be a Channel of type .*Model"),
        ((), {"encoder": None}, "encoder should be a Channel of type .*Model"),
        ((), {"batch_size": "128"}, "Expected type <class 'int'> for parameter 'batch_size'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, changes: dict[str, Any], message: str) -> None:
    given = {"items": EXAMPLES, "encoder": MODEL, "code_fingerprint": "c"} | changes
    with pytest.raises(TypeError, match=message):
        EmbeddingExporter(*arguments, **{name: value for name, value in given.items() if value is not ...})


def test_other_annotations_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Wrong.count is annotated with <class 'int'>; .* InputArtifact\[T\]"):

        class Wrong(Component, executor=Executor):
            count: int
            comparison: OutputArtifact[BaselineComparison]
