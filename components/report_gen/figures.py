"""The figures of a run, as plain values."""

from __future__ import annotations

import math
from typing import Any

from serving.storage import as_path

CLICK = "ctr"
SLICES = ("cold", "tail", "rest", "new", "known")
_NAMES = {
    "auc": "auc",
    "gauc": "gauc",
    "logloss": "binary_crossentropy",
    "calibration": "calibration",
    "rows": "example_count",
}
MEAN_LABEL = "mean_label"
Metrics = dict[str, Any]


def read_evaluation(folder: str) -> Metrics:
    """What TFMA measured of the click: `auc`, `gauc`, `logloss`, `calibration`, `rows`, and the same in `slices`; and
    of further labels the same in `labels`, by name.

    A slice without rows is left out; a figure that cannot be computed is None.
    """
    import tensorflow_model_analysis as tfma

    result = tfma.load_eval_result(folder, model_name=_candidate(folder))
    of_outputs: dict[str, Metrics] = {}
    for slice_key, outputs in result.slicing_metrics:
        for output, values in outputs.items():
            figures = _figures(values[""])
            metrics = of_outputs.setdefault(output or CLICK, {"slices": {}})
            if slice_key == ():
                metrics |= figures
            else:
                metrics["slices"][str(slice_key[0][1])] = figures
    for metrics in of_outputs.values():
        metrics["slices"] = {name: metrics["slices"][name] for name in SLICES if name in metrics["slices"]}
    click = of_outputs.pop(CLICK)
    return click | {"labels": of_outputs} if of_outputs else click


def _figures(values: dict[str, Any]) -> Metrics:
    figures: Metrics = {name: _number(values.get(tfma_name)) for name, tfma_name in _NAMES.items()}
    figures["rows"] = int(figures["rows"] or 0)
    if _number(values.get(MEAN_LABEL)) in (0.0, 1.0):
        figures["auc"] = None  # of one label; TFMA has 0 for it
    return figures


def _candidate(folder: str) -> str | None:
    """The candidate's name in an evaluation that also holds a baseline."""
    import tensorflow_model_analysis as tfma

    names = {spec.name for spec in tfma.load_eval_result(folder).config.model_specs}
    return "candidate" if "candidate" in names else None


def _number(value: Any) -> float | None:
    number = float(value["doubleValue"]) if value and "doubleValue" in value else math.nan
    return None if math.isnan(number) else number


def is_blessed(folder: str) -> bool:
    """Whether the ranker was blessed, as the blessing in `folder` says."""
    return bool((as_path(folder) / "BLESSED").exists())


def gap_closed(auc: float | None, oracle: float) -> float | None:
    """Share of the way from 0.5 to the oracle's AUC."""
    return None if auc is None else (auc - 0.5) / (oracle - 0.5)
