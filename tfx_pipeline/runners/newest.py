"""The newest figures of a local run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from upath import UPath

from components.baseline_check.executor import FILE
from components.report_gen.figures import is_blessed, read_evaluation
from components.storage import local_folder
from serving.storage import as_path
from tfx_pipeline.runners.lineage import newest, open_store


def newest_metrics(root: str | Path | UPath) -> dict[str, Any]:
    """`auc`, `gauc`, `logloss`, `calibration`, `rows`, `slices`, `labels` (the same of further labels, by name),
    `baselines` and `released` of the newest ranker.

    Raises:
        FileNotFoundError: no ranker was evaluated there yet.
    """
    store = open_store(root)
    evaluation = newest(store, "Evaluator", "evaluation")
    blessing = newest(store, "BaselineCheck", "blessing")
    comparison = newest(store, "BaselineCheck", "comparison")
    if evaluation is None or blessing is None or comparison is None:
        raise FileNotFoundError(
            f"{root} holds no evaluation yet; start with `mim run`, or look into {as_path(root) / 'run.log'}"
        )
    found = read_evaluation(local_folder(evaluation.uri))
    order = ("auc", "gauc", "logloss", "calibration", "rows", "slices")
    baselines = json.loads((as_path(comparison.uri) / FILE).read_text())
    kept = {name: found[name] for name in order} | {"labels": found.get("labels", {})}
    return {**kept, "baselines": baselines, "released": is_blessed(blessing.uri)}
