"""Runs the grid: the pipeline up to the ranker for every variant with every seed; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mim_keras.config import ConfigError
from tfx_pipeline.ablation.table import CONTENT, Results, markdown, summary
from tfx_pipeline.ablation.variants import Variant
from tfx_pipeline.runners import local
from tfx_pipeline.settings import Settings

FOLDER, RESULTS, PAGE = "ablation", "ablation.json", "ablation.md"
VIEWS = {
    "popularity": "a tenth of the rows at a time, by the item's clicks in training, the least first",
    "age": "by how long ago the item was first seen",
}


def ablate(settings: Settings, data: str, root: str, variants: dict[str, Variant], seeds: int, reference: str) -> dict:
    """Measures `variants` with seeds 1 to `seeds` and writes `ablation.json` and `ablation.md` below `root`.

    Each variant is a run of the pipeline with other settings, up to its ranker; what runs in `root` have in common is
    made once.  In the folder `ablation` stand the figures of every ranker, and beside them what it says of test's rows,
    in their order: click probabilities, float32, in a file `.npy` of the same name.

    Args:
        settings: Of the run that the variants change.
        data: Folder that meets the contract.
        root: Where everything goes.
        variants: By name.
        seeds: How many.
        reference: The variant that the others are held against.

    Returns:
        What `ablation.json` holds: `rows`, `content`, `popularity` and `age` (see `summary`), `results`, every figure
        of every run, `left_out`, the variants that these data do not allow, each with the reason, and `same_as`, those
        whose settings are another's.

    Raises:
        ConfigError: a backbone that a variant needs is not there, or no variant can be measured on these data.
    """
    settings = replace(settings, warm_start=False)
    for variant in variants.values():
        replace(settings, stages=variant.settings(settings.stages, 1)).require_presets()
    results, left_out = _measure_all(settings, data, Path(root), variants, seeds)
    if reference in left_out:  # the first that can be measured, then
        reference = next(iter(results))
    owners: dict[str, str] = {}
    same_as = {name: owners.setdefault(found[1]["scores"], name) for name, found in results.items()}
    same_as = {name: owner for name, owner in same_as.items() if name != owner}
    everything, page = _tables(results, variants, reference)
    for name, other in same_as.items():
        page += f"\nOf the same settings: {variants[name].says}, {variants[other].says}.\n"
    for name, reason in left_out.items():
        page += f"\nLeft out: {variants[name].says}. {reason}\n"
    everything |= {"left_out": left_out, "same_as": same_as}
    (Path(root) / RESULTS).write_text(json.dumps(everything, indent=2))
    (Path(root) / PAGE).write_text(page)
    return everything


def _measure_all(
    settings: Settings, data: str, root: Path, variants: dict[str, Variant], seeds: int
) -> tuple[Results, dict[str, str]]:
    """What `measure` found of each variant and seed, and why variants were left out."""
    results: Results = {}
    left_out: dict[str, str] = {}
    grid = [(seed, name) for seed in range(1, seeds + 1) for name in variants]
    for count, (seed, name) in enumerate(grid, 1):
        if name in left_out:
            continue
        variant = variants[name]
        local.say(f"{variant.says}, seed {seed}: {count} of {len(grid)}")
        stages = variant.settings(settings.stages, seed)
        reads_views = variant.has_encoder and "joint" in stages.encoder.item_embedding_parts
        try:
            found = measure(replace(settings, stages=stages), data, root, reads_views)
        except ConfigError as error:
            left_out[name] = str(error)
            local.say(f"        left out: {error}")
            if len(left_out) == len(variants):
                raise
            continue
        local.say(f"        {_line(found)}")
        results.setdefault(name, {})[seed] = found
    return results, left_out


def measure(settings: Settings, data: str, root: Path, reads_views: bool) -> dict[str, Any]:
    """Runs the pipeline up to the ranker and measures it, unless both was done before.

    Args:
        settings: Of the variant.
        data: Folder that meets the contract.
        root: Of the runs.
        reads_views: Whether the ranker reads what stages 1 and 2 train, which is measured then, too.

    Returns:
        Figures of `ranker_figures` and, under `content`, of `content_figures`; `scores`, the file of click
        probabilities below `root`; and `seconds`.
    """
    begin = time.monotonic()
    local.run(settings, data, str(root), ranker_only=True)
    import keras
    import numpy as np

    from tfx_pipeline.ablation.evaluate import content_figures, ranker_figures
    from tfx_pipeline.fingerprints import code_fingerprint
    from tfx_pipeline.runners.lineage import newest, open_store

    store = open_store(root)

    def folder(node: str, output: str) -> str:
        artifact = newest(store, node, output)
        assert artifact is not None, f"{node} has run"
        return str(artifact.uri)

    model, run = folder("Trainer.ciubm", "model"), folder("Trainer.csft", "model_run")
    made_of = [model, run, reads_views, code_fingerprint("tfx_pipeline.ablation.evaluate")]
    file = root / FOLDER / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        figures, scores = ranker_figures(model, folder("HistoryGen", "examples"))
        found = {**figures, **({"content": content_figures(run)} if reads_views else {})}
        file.parent.mkdir(exist_ok=True)
        np.save(file.with_suffix(".npy"), scores)
        found |= {"scores": f"{FOLDER}/{file.stem}.npy", "seconds": round(time.monotonic() - begin, 1)}
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found, indent=2))
        part.rename(file)
    keras.backend.clear_session()
    return json.loads(file.read_text())


def _tables(results: Results, variants: dict[str, Variant], reference: str) -> tuple[dict[str, Any], str]:
    """The tables as `ablation.json` holds them, and as a page."""
    from tfx_pipeline.run_fns.pair_figures import TRAINED_ON

    says = {name: variant.says for name, variant in variants.items() if name in results}
    rows = summary(results, reference)
    encoders = [name for name in results if variants[name].has_encoder]
    base = reference if reference in encoders else next((n for n in ("stage1", *encoders) if n in encoders), reference)
    content = summary(results, base, "content", CONTENT)
    cuts = {name: summary(results, reference, name, ("auc",)) for name in VIEWS}
    page = markdown(rows, says, reference)
    if content:
        whole = [row for row in content if not row["slice"].endswith(tuple(TRAINED_ON))]
        page += "\nWhat the encoder finds, of what it did not learn from:\n\n" + markdown(whole, says, base)
    for name, what in VIEWS.items():
        page += f"\nTest, {what}:\n\n" + markdown(cuts[name], says, reference)
    return {"rows": rows, "reference": reference, "content": content, "results": results, **cuts}, page


def _line(found: dict[str, Any]) -> str:
    parts = [
        f"{split} {part} AUC {values['auc']:.4f} GAUC {values['gauc']:.4f}"
        for split in ("valid", "test")
        for part, values in found[split].items()
        if part in ("all", "new", "known")
    ]
    return ", ".join(parts) + f"; {found['seconds']} s"
