"""The Kubeflow spec holds the same graph and parses as the pipeline-spec proto."""

from __future__ import annotations

from pathlib import Path

import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.contract.schema import Schema
from tfx_pipeline.cli import main
from tfx_pipeline.pipeline import RunPaths, create_pipeline
from tfx_pipeline.settings import Settings


def test_compile_writes_a_valid_spec_of_the_same_graph(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.yaml"
    done = CliRunner().invoke(main, ["compile", "--config", "sample", "-o", str(out), "--image", "registry/mim:1"])
    assert done.exit_code == 0, done.output
    job = yaml.safe_load(out.read_text())
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    tasks = {name.split(".pipeline")[0] for name in spec.root.dag.tasks}
    pipeline = create_pipeline(Settings.load("sample"), RunPaths("/d", "/r"), Schema())
    nodes = {component.id for component in pipeline.components}
    assert {task.replace("-", "_").lower() for task in tasks} >= {node.replace("-", "_").lower() for node in nodes}
    images = {e.container.image for e in _executors(spec) if e.HasField("container")}
    assert images == {"registry/mim:1"}
    csft = next(task for name, task in spec.root.dag.tasks.items() if name.lower().startswith("trainer.csft"))
    assert set(csft.inputs.artifacts) >= {"base_model", "catalogue", "examples"}
    pusher = next(task for name, task in spec.root.dag.tasks.items() if name.startswith("ReleasePusher"))
    assert not pusher.caching_options.enable_cache
    assert csft.caching_options.enable_cache


def _executors(spec: pipeline_spec_pb2.PipelineSpec) -> list:
    config = pipeline_spec_pb2.PipelineDeploymentConfig()
    json_format.ParseDict(json_format.MessageToDict(spec.deployment_spec), config)
    return list(config.executors.values())


def test_equal_data_versions_give_equal_specs(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        arguments = ["compile", "--config", "sample", "-o", str(tmp_path / name), "--data-version", "2025-02-03"]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
