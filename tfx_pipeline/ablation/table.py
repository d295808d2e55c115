"""From figures of variants and seeds to one table with paired intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import t

from tfx_pipeline.ablation.views import AGES

Results = dict[str, dict[int, dict[str, Any]]]  # variant → seed → what `Bench.measure` found


RANKING, CONTENT = ("auc", "gauc"), ("recall_at_10", "times_chance")  # figures of a split; of an encoder


def summary(
    results: Results, reference: str, split: str = "test", figures: tuple[str, ...] = RANKING
) -> list[dict[str, Any]]:
    """For each variant, slice and figure: mean, and the difference from `reference` with its 95 % interval.

    Variants without `split` are left out.

    Differences are paired by seed; the interval is Student's, over seeds that both have; None below two of them.
    """
    rows = []
    results = {name: {s: f for s, f in by_seed.items() if split in f} for name, by_seed in results.items()}
    for variant, by_seed in results.items():
        slices = sorted({name for found in by_seed.values() for name in found[split]}, key=_order)
        for part in slices:
            for figure in figures:
                values = {seed: found[split][part][figure] for seed, found in by_seed.items() if part in found[split]}
                other = {s: f[split][part][figure] for s, f in results.get(reference, {}).items() if part in f[split]}
                paired = [values[seed] - other[seed] for seed in sorted(set(values) & set(other))]
                rows.append(
                    {
                        "variant": variant,
                        "slice": part,
                        "figure": figure,
                        "mean": float(np.mean(list(values.values()))),
                        "seeds": len(values),
                        "difference": None if variant == reference or not paired else float(np.mean(paired)),
                        "interval": None if variant == reference else interval(paired),
                    }
                )
    return rows


def interval(differences: list[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean; None for fewer than two."""
    n = len(differences)
    if n < 2:
        return None
    half = float(t.ppf(0.975, n - 1)) * float(np.std(differences, ddof=1)) / math.sqrt(n)
    middle = float(np.mean(differences))
    return middle - half, middle + half


_NAMES = {"auc": "AUC", "gauc": "GAUC", "recall_at_10": "Recall@10", "times_chance": "× chance"}


def _order(name: str) -> tuple[bool, int, str]:
    """All first; then parts by their number, ages from new to old, others by name."""
    number, ages = name.partition(" of ")[0], list(AGES)
    place = int(number) if number.isdigit() else ages.index(name) if name in ages else 0
    return name != "all", place, name


def markdown(rows: list[dict[str, Any]], says: dict[str, str], reference: str) -> str:
    """A line a variant, a column a slice and figure; differences from the reference below the means."""
    columns = sorted({(row["slice"], row["figure"]) for row in rows}, key=lambda c: (_order(c[0]), c[1]))
    lines = [
        "| variant | seeds | " + " | ".join(f"{part} {_NAMES[figure]}" for part, figure in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for variant, text in says.items():
        own = {(row["slice"], row["figure"]): row for row in rows if row["variant"] == variant}
        if own:
            seeds = max(row["seeds"] for row in own.values())
            cells = [_cell(own[column]) if column in own else "" for column in columns]
            lines.append(f"| {text} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", f"In brackets: the 95 % interval of the difference from “{says[reference]}”, paired.", ""]
    )


def _cell(row: dict[str, Any]) -> str:
    text = f"{row['mean']:.4f}"
    if row["figure"] == "times_chance":
        return f"{row['mean']:.1f}"
    if row["interval"] is not None:
        low, high = row["interval"]
        text += f" [{low:+.4f}, {high:+.4f}]"
    elif row["difference"] is not None:
        text += f" ({row['difference']:+.4f})"
    return text
