"""What `ReportGen` does: collects, draws, writes."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.baseline_check.executor import FILE, sentence
from components.catalogue_gen.executor import SPLITS
from components.examples import read_split
from components.metrics import PROPERTY as METRICS
from components.report_gen import plots
from components.report_gen.figures import Metrics, gap_closed, is_blessed, read_evaluation
from components.storage import on_local_disk
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import restore_vectors
from serving.storage import as_path

SHOWN_ITEMS, SHOWN_NEIGHBOURS = 6, 6


class Executor(base_executor.BaseExecutor):
    """Writes `report.html` and `figures.json`."""

    @on_local_disk
    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        def folder(name: str) -> Path:
            return Path(artifact_utils.get_single_uri(input_dict[name]))

        def log(stage: str, name: str) -> Any:  # a warm start has none of the stages before
            runs = input_dict.get(f"{stage}_run")
            return _json(Path(artifact_utils.get_single_uri(runs)) / f"logs/{name}.json") if runs else None

        mim = read_evaluation(str(folder("evaluation")))
        ids_only = (
            read_evaluation(str(folder("ids_only_evaluation"))) if input_dict.get("ids_only_evaluation") else None
        )
        comparison = json.loads((folder("comparison") / FILE).read_text())
        oracle_file = as_path(exec_properties["data"]) / "oracle.json"
        oracle = json.loads(oracle_file.read_text()) if oracle_file.is_file() else None

        def kept(what: str, *names: str) -> dict[str, dict[str, int]]:
            found = {n: json.loads(input_dict[n][0].get_string_custom_property(what) or "null") for n in names}
            return {name: values for name, values in found.items() if values}

        figures = {
            "mim": mim,
            "ids_only": ids_only,
            "oracle": oracle,
            "baselines": comparison,
            "blessed": is_blessed(str(folder("blessing"))),
            "pretrain": log("pretrain", "recall"),
            "csft": log("csft", "recall"),
            "calibration": log("ciubm", "calibration"),
            "accounts": kept("counts", "items", "impressions", "pairs"),
            "metrics": kept(METRICS, "items", "impressions", "examples", "pairs", "embeddings"),
        }
        said = [*sentences(mim, ids_only, oracle), f"Baselines: {sentence(comparison)}."]
        curves = {stage: log(stage, "history") for stage in ("pretrain", "csft", "ciubm")}
        snapshot = Snapshot.load(folder("embeddings"))
        page = _template().render(
            name=exec_properties["name"],
            settings=exec_properties["settings"],
            figures=figures,
            sentences=said,
            quality=plots.quality(mim, ids_only, oracle),
            curves=plots.curves(curves),
            reliability=plots.reliability(figures["calibration"]) if figures["calibration"] else None,
            neighbours=_neighbours(snapshot, str(folder("items"))),
            manifest=snapshot.manifest,
        )
        out = Path(artifact_utils.get_single_uri(output_dict["report"]))
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(page)
        (out / "figures.json").write_text(json.dumps(figures, indent=2))
        logging.info("table of quality: %s", "; ".join(said))


def sentences(mim: Metrics, ids_only: Metrics | None, oracle: dict[str, float] | None) -> list[str]:
    """What the figures say, in words."""
    said = [
        f"On {mim['rows']:,} test rows the ranker reaches an AUC of {_figure(mim['auc'], 'all rows have one label')} "
        f"and a GAUC of {_figure(mim['gauc'], 'no user has both labels')}."
    ]
    cold = mim["slices"].get("cold", {}).get("auc")
    if cold is None:
        return [*said, "No test row lies on a cold item, or all have one label."]
    if ids_only is not None and (other := ids_only["slices"].get("cold", {}).get("auc")) is not None:
        word = "above" if cold >= other else "below"
        said.append(
            f"On cold items its AUC is {cold:.4f}, {abs(cold - other):.4f} {word} "
            f"the same ranker with ids alone ({other:.4f})."
        )
    if oracle is not None:
        share = gap_closed(cold, oracle["cold_auc"])
        said.append(
            f"That closes {share:.0%} of the gap between guessing (0.5) and the oracle "
            f"({oracle['cold_auc']:.4f}) on cold items."
        )
    return said


def _figure(value: float | None, why_not: str) -> str:
    return f"undefined ({why_not})" if value is None else f"{value:.4f}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((Path(__file__).parent / "page.html").read_text())


def _neighbours(snapshot: Snapshot, items_folder: str) -> list[list[dict[str, str]]]:
    """Some items, spread over the catalogue, each with those the encoder finds most alike."""
    vectors = restore_vectors(snapshot.vectors)
    candidates = np.flatnonzero(snapshot.modalities == 3)
    if len(candidates) <= SHOWN_NEIGHBOURS:
        return []
    shown = candidates[np.linspace(0, len(candidates) - 1, SHOWN_ITEMS).astype(int)]
    rows = []
    for row in shown:
        order = candidates[np.argsort(-(vectors[candidates] @ vectors[row]))]
        rows.append([int(row), *(int(other) for other in order if other != row)][: SHOWN_NEIGHBOURS + 1])
    wanted = {snapshot.item_ids[i].encode() for group in rows for i in group}
    looks = _read_looks(items_folder, wanted)
    return [
        [
            {**looks[snapshot.item_ids[i].encode()], "score": f"{float(vectors[group[0]] @ vectors[i]):.2f}"}
            for i in group
        ]
        for group in rows
    ]


def _read_looks(items_folder: str, wanted: set[bytes]) -> dict[bytes, dict[str, str]]:
    looks = {}
    for split in SPLITS:
        for _, columns in read_split(items_folder, split, only=("item_id", "title", "image")):
            lists = (columns[name].to_pylist() for name in ("item_id", "title", "image"))
            for item_id, title, image in zip(*lists, strict=True):
                if item_id in wanted:
                    looks[item_id] = {"title": title.decode(), "picture": _data_address(image)}
    return looks


def _data_address(image: bytes) -> str:
    from PIL import Image

    picture = Image.open(io.BytesIO(image)).convert("RGB")
    picture.thumbnail((96, 96))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
