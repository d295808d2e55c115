"""Runs the grid: the data once, then every variant with every seed; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mim_keras.config import ConfigError, to_mapping
from tfx_pipeline.ablation.table import CONTENT, Results, markdown, summary
from tfx_pipeline.ablation.variants import Variant
from tfx_pipeline.runners import local
from tfx_pipeline.settings import Settings

if TYPE_CHECKING:
    from tfx_pipeline.ablation.inputs import Inputs

FOLDER, RESULTS, PAGE = "ablation", "ablation.json", "ablation.md"
VIEWS = {
    "popularity": "a tenth of the rows at a time, by the item's clicks in training, the least first",
    "age": "by how long ago the item was first seen",
}


def ablate(settings: Settings, data: str, root: str, variants: dict[str, Variant], seeds: int, reference: str) -> dict:
    """Measures `variants` with seeds 1 to `seeds` and writes `ablation.json` and `ablation.md` below `root`.

    In the folder `ablation` stand the figures of every variant and seed (see `result_file`), and beside them what the
    ranker says of test's rows, in their order: click probabilities, float32, in a file `.npy` of the same name.

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
    if any(variant.stages != "none" for variant in variants.values()):
        settings.require_presets()
    local.run(settings, data, root, data_only=True)
    from tfx_pipeline.ablation.inputs import read_inputs
    from tfx_pipeline.ablation.train import Bench
    from tfx_pipeline.run_fns.pair_figures import TRAINED_ON

    folder = Path(root) / FOLDER
    inputs = read_inputs(Path(root), settings.data, settings.stages.ciubm.history_length)
    made = data_made(settings, inputs)
    bench = Bench(inputs, settings.stages, folder / "encoders" / digest(made), settings.embeddings.dtype)
    results: Results = {}
    left_out: dict[str, str] = {}
    same_as: dict[str, str] = {}
    owners: dict[Path, str] = {}
    count, total = 0, seeds * len(variants)
    for seed in range(1, seeds + 1):
        for name, variant in variants.items():
            count += 1
            if name in left_out:
                continue
            file = result_file(Path(root), settings, made, variant, seed)
            if (owner := owners.setdefault(file, name)) != name:
                same_as[name] = owner
            if not file.is_file():
                local.say(f"[{count:2d}/{total}] {variant.says}, seed {seed}")
                try:
                    with local.narrated(total, local.NodeTimes(), Path(root) / "run.log"):
                        found, scores = bench.measure(variant, seed)
                except ConfigError as error:
                    left_out[name] = str(error)
                    local.say(f"        left out: {error}")
                    if len(left_out) == len(variants):
                        raise
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file.with_suffix(".npy"), scores)
                part = file.with_suffix(".part")
                part.write_text(json.dumps(found, indent=2))
                part.rename(file)
                local.say(f"        {_line(found)}")
            results.setdefault(name, {})[seed] = json.loads(file.read_text())
    if reference in left_out:  # the first that can be measured, then
        reference = next(iter(results))
    rows = summary(results, reference)
    encoders = [name for name in results if variants[name].stages != "none"]
    base = reference if reference in encoders else next((n for n in ("stage1", *encoders) if n in encoders), reference)
    content = summary(results, base, "content", CONTENT)
    cuts = {name: summary(results, reference, name, ("auc",)) for name in VIEWS}
    everything = {
        "rows": rows,
        "reference": reference,
        "content": content,
        "results": results,
        "left_out": left_out,
        "same_as": same_as,
        **cuts,
    }
    (Path(root) / RESULTS).write_text(json.dumps(everything, indent=2))
    says = {name: variant.says for name, variant in variants.items() if name in results}
    page = markdown(rows, says, reference)
    if content:
        whole = [row for row in content if not row["slice"].endswith(tuple(TRAINED_ON))]
        page += "\nWhat the encoder finds, of what it did not learn from:\n\n" + markdown(whole, says, base)
    for name, what in VIEWS.items():
        page += f"\nTest, {what}:\n\n" + markdown(cuts[name], says, reference)
    for name, other in same_as.items():
        page += f"\nOf the same settings: {variants[name].says}, {variants[other].says}.\n"
    for name, reason in left_out.items():
        page += f"\nLeft out: {variants[name].says}. {reason}\n"
    (Path(root) / PAGE).write_text(page)
    return everything


def data_made(settings: Settings, inputs: Inputs) -> list[Any]:
    """What tells these inputs from those of other settings or other data."""
    return [to_mapping(settings.data), inputs.fingerprint]


def result_file(root: Path, settings: Settings, made: list[Any], variant: Variant, seed: int) -> Path:
    """Where the figures of a variant and a seed stand; `made` is of `data_made`."""
    made_of = to_mapping(variant.settings(settings.stages, seed))
    described = [made, variant.stages, made_of, settings.embeddings.dtype]
    return root / FOLDER / f"{digest(described)}-{seed}.json"  # variants that come to the same settings are one


def digest(value: Any) -> str:
    """A short name for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _line(found: dict[str, Any]) -> str:
    parts = [
        f"{split} {part} AUC {values['auc']:.4f} GAUC {values['gauc']:.4f}"
        for split in ("valid", "test")
        for part, values in found[split].items()
        if part in ("all", "new", "known")
    ]
    return ", ".join(parts) + f"; {found['seconds']} s"
