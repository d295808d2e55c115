"""The same graph as a Kubeflow Pipelines v2 spec."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from components.contract.schema import Schema
from tfx_pipeline.settings import Settings


def compile_pipeline(
    settings: Settings,
    data: str,
    root: str,
    image: str,
    output: Path,
    data_version: str = "",
    schema: Schema | None = None,
) -> dict[str, Any]:
    """Compiles the pipeline for Kubeflow Pipelines v2 (or Vertex) and writes its spec.

    Args:
        settings: The run's settings.
        data: Data folder, as the cluster's workers see it.
        root: Default pipeline root; a submitted run may be given another.
        image: Container image that has this project installed.
        output: `.yaml` or `.json`.
        schema: Of the tables; None for tables and columns that have the contract's names.
        data_version: Runs of specs with equal versions share cached steps; the time of compilation where empty.

    Returns:
        The pipeline job: `pipelineSpec` and `runtimeConfig`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfx.v1.orchestration.experimental import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

    from tfx_pipeline.pipeline import RunPaths, create_pipeline

    paths = RunPaths(data, root, data_version=data_version or f"compiled {time.time():.0f}")
    pipeline = create_pipeline(settings, paths, schema or Schema())
    config = KubeflowV2DagRunnerConfig(default_image=image, display_name=settings.name)
    with tempfile.TemporaryDirectory() as folder:
        runner = KubeflowV2DagRunner(config=config, output_dir=folder, output_filename="job.json")
        runner.run(pipeline, write_out=True)
        job: dict[str, Any] = json.loads((Path(folder) / "job.json").read_text())
    task = job["pipelineSpec"]["root"]["dag"]["tasks"]["ReleasePusher"]
    task["cachingOptions"] = {"enableCache": False}  # what is served is not an artifact that a cache could know
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(job, indent=2) if output.suffix == ".json" else yaml.safe_dump(job, sort_keys=False)
    output.write_text(text)
    return job


def submit_spec(spec: Path, host: str, root: str | None = None) -> str:
    """Starts a compiled spec on the Kubeflow Pipelines API at `host` and returns the run's id."""
    try:
        import kfp
    except ImportError as error:
        raise RuntimeError("mim submit needs the extra `kubeflow`: pip install 'mim-tensorflow[kubeflow]'") from error
    job = yaml.safe_load(spec.read_text())
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        package.write_text(yaml.safe_dump(job["pipelineSpec"], sort_keys=False))
        client = kfp.Client(host=host)
        run = client.create_run_from_pipeline_package(str(package), arguments={}, pipeline_root=root)
    return str(run.run_id)
