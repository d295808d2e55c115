"""The report's drawings, as PNG data addresses."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from components.report_gen.figures import SLICES, Metrics

matplotlib.use("Agg")
BLUE, GREY, GREEN = "#2563a8", "#9aa5b1", "#3a8f5c"


def _address(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def quality(mim: Metrics, ids_only: Metrics | None, oracle: dict[str, float] | None) -> str:
    """AUC by segment: the ranker, the same with ids alone, and the oracle where one is known."""
    groups = ["all", *(name for name in SLICES if name in mim["slices"])]

    def of(metrics: Metrics) -> list[float]:
        return [(metrics if name == "all" else metrics["slices"].get(name, {})).get("auc") or 0.0 for name in groups]

    series = [("MIM", of(mim), BLUE)]
    if ids_only is not None:
        series.insert(0, ("ids alone", of(ids_only), GREY))
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.subplots()
    width = 0.8 / len(series)
    for place, (label, values, colour) in enumerate(series):
        at = [x + (place - (len(series) - 1) / 2) * width for x in range(len(groups))]
        bars = axes.bar(at, values, width * 0.94, label=label, color=colour)
        axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    if oracle is not None:
        for name, key in (("all", "auc"), ("cold", "cold_auc")):
            if name in groups:
                x = groups.index(name)
                axes.hlines(oracle[key], x - 0.45, x + 0.45, color=GREEN, label="oracle" if name == "all" else "_")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0.45, 1.0)
    axes.set_ylabel("AUC on the test rows")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return _address(figure)


def curves(stages: dict[str, Any]) -> str:
    """Training loss of each stage, and the ranker's validation figures, by epoch."""
    figure = Figure(figsize=(9.6, 2.6))
    panels = figure.subplots(1, 4)
    titles = {"pretrain": "1 · pre-training", "csft": "2 · C-SFT", "ciubm": "3 · CiUBM"}
    for axes, (stage, title) in zip(panels, titles.items(), strict=False):
        _line(axes, title, {"training loss": (stages[stage] or {}).get("loss", [])})
    ranker = stages["ciubm"] or {}
    _line(panels[3], "3 · valid", {name: ranker.get(f"val_{name}", []) for name in ("auc", "gauc")})
    figure.tight_layout()
    return _address(figure)


def reliability(calibration: dict[str, Any]) -> str:
    """Rate of each label by its predicted probability, before and after calibration, on rows left out of the fit."""
    figure = Figure(figsize=(3.4 * len(calibration), 3.0))
    for axes, (name, own) in zip(np.atleast_1d(figure.subplots(1, len(calibration))), calibration.items(), strict=True):
        largest = 0.0
        for what, label, colour in (("points", "before", GREY), ("calibrated", "after", BLUE)):
            axes.plot(own[what]["score"], own[what]["rate"], marker="o", markersize=3, color=colour, label=label)
            largest = max([largest, *own[what]["score"], *own[what]["rate"]])
        axes.plot([0, largest], [0, largest], color=GREEN, linewidth=0.8, label="as predicted")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("observed", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _address(figure)


def _line(axes: Any, title: str, lines: dict[str, list[float]]) -> None:
    for colour, (label, values) in zip((BLUE, GREEN), lines.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, color=colour, label=label)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
