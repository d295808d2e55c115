"""What `BaselineCheck` does: fits the baselines, scores the test rows, compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from absl import logging
from sklearn.ensemble import HistGradientBoostingClassifier
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.baseline_check.rows import ItemContent, RowReader, Rows, log_odds, read_columns
from components.item_attributes import attribute_values
from mim_keras.layers import ItemTableData
from mim_keras.metrics import auc, gauc, log_loss, paired_auc_difference
from serving.representation_center.snapshot import Snapshot, restore_vectors

FILE = "comparison.json"
TRAIN_ROWS = 400_000  # that the trees are fitted on
SCORED_ROWS = 4_096
TREES = ({"learning_rate": 0.1, "max_leaf_nodes": 31}, {"learning_rate": 0.05, "max_leaf_nodes": 15})
ROUNDS, PATIENCE, FEWEST_IN_A_LEAF = 300, 20, 50
BLESSED = "blessed"


class Executor(base_executor.BaseExecutor):
    """Writes `comparison.json`, and a blessing where the ranker may be released."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        def folder(name: str) -> str:
            return str(artifact_utils.get_single_uri(input_dict[name]))

        spec = json.loads(exec_properties["features"])
        content = item_content(folder("items"), Snapshot.load(folder("embeddings")), spec["attributes"])
        reader = RowReader(folder("examples"), content, spec["context"], spec["entities"])
        train, _ = reader.read("train", TRAIN_ROWS)
        valid, _ = reader.read("valid", TRAIN_ROWS)
        test, serialised = reader.read("test")
        model = tf.saved_model.load(path_utils.serving_model_path(folder("model")))
        comparison = compare(train, valid, test, served_scores(model, serialised), reader.categorical)
        accepted = accept(comparison, bool(exec_properties["must_beat"]))
        (evaluated,) = input_dict["evaluated"]
        blessed = accepted and evaluated.get_int_custom_property(BLESSED) == 1
        (model_artifact,) = input_dict["model"]
        bless(output_dict["blessing"][0], model_artifact, blessed)
        out = Path(artifact_utils.get_single_uri(output_dict["comparison"]))
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_text(json.dumps(comparison | {"accepted": accepted}, indent=2))
        logging.info("table of baselines: %s", sentence(comparison))
        if not blessed:
            logging.warning("table of releases: the ranker is not released: %s", why_not(comparison, accepted))


def item_content(items: str, snapshot: Snapshot, kinds: dict[str, str]) -> ItemContent:
    """Content embeddings and attributes of all items, in the snapshot's order.

    Args:
        items: Folder of the Examples artifact.
        snapshot: Of the embeddings.
        kinds: Of the attributes beside the category, by name.
    """
    columns: dict[str, list[bytes]] = {name: [] for name in ("item_id", "category", *kinds)}
    for split in ("train", "valid"):
        for _, found in read_columns(items, split, tuple(columns)):
            for name, values in columns.items():
                values += found[name].to_pylist() if name in found else [b""] * len(found["item_id"])
    row_of = {item_id.decode(): row for row, item_id in enumerate(columns["item_id"])}
    rows = [row_of.get(item_id, -1) for item_id in snapshot.item_ids]

    def ordered(kind: str, name: str) -> list[list[str]]:
        values = attribute_values(kind, np.array([*columns[name], b""], object))
        return [values[row] for row in rows]

    category, *others = (ordered(kind, name) for name, kind in {"category": "list", **kinds}.items())
    vectors = restore_vectors(snapshot.vectors).astype(np.float32)
    known = np.any(vectors != 0, axis=1)
    table = ItemTableData.from_items(
        vectors, known, category, np.zeros(len(rows), int), dict(zip(kinds, others, strict=True))
    )
    ids = pa.array([item_id.encode() for item_id in snapshot.item_ids], pa.binary())
    return ItemContent(ids, table.embeddings, table.attributes, table.slots)


def served_scores(model: Any, serialised: list[bytes]) -> np.ndarray:
    """The click probabilities that a ranker's SavedModel gives ranking examples, float32 [n]."""
    score = model.signatures["serve_examples"]
    parts = [serialised[begin : begin + SCORED_ROWS] for begin in range(0, len(serialised), SCORED_ROWS)]
    return np.concatenate([score(examples=tf.constant(part))["ctr"].numpy() for part in parts] or [np.zeros(0)])


def compare(train: Rows, valid: Rows, test: Rows, scores: np.ndarray, categorical: list[bool]) -> dict[str, Any]:
    """The ranker and the baselines on the test rows.

    Returns:
        `rows`; `ranker` and `baselines` by name, each with `auc`, `gauc`, `logloss` and `cold_auc`; `best`, the
        baseline of the largest AUC; and `difference` of the ranker's AUC and its, `low`, `high`: a 95 % interval over
        users.  Figures that cannot be computed are None.
    """
    item, user = (log_odds(getattr(train, name), train.label, getattr(test, name)) for name in ("item", "user"))
    baselines = {"item click rate": item, "item and user click rates": item + user}
    if len(np.unique(train.label)) == 2:
        baselines["gradient boosting"] = boosted_scores(train, valid, test, categorical)
    found = {name: figures(test, score) for name, score in baselines.items()}
    best = max(found, key=lambda name: found[name]["auc"] or 0.0)
    comparison = {"rows": len(test.label), "ranker": figures(test, scores), "baselines": found, "best": best}
    if len(np.unique(test.label)) < 2:
        return comparison | {"difference": None, "low": None, "high": None}
    found_difference = paired_auc_difference(test.user, test.label, scores, baselines[best])
    return comparison | {name: _figure(value) for name, value in found_difference._asdict().items()}


def boosted_scores(train: Rows, valid: Rows, test: Rows, categorical: list[bool]) -> np.ndarray:
    """Scores of scikit-learn's gradient boosting, float [test rows].

    It reads what the ranker may read as numbers: point-in-time statistics, click rates of item and user outside the
    row's own fold, context, the cosine similarity of the candidate and the history, and their shared attributes.  Of
    two settings the better one on the validation rows is taken.
    """

    def table(rows: Rows, out_of_fold: bool) -> np.ndarray:
        rates = [
            log_odds(getattr(train, name), train.label, getattr(rows, name), out_of_fold) for name in ("item", "user")
        ]
        return np.concatenate([rows.features, np.stack(rates, axis=1)], axis=1).astype(np.float32)

    known, held, asked = table(train, True), table(valid, False), table(test, False)
    mask = np.array([*categorical, *([False] * (known.shape[1] - len(categorical)))])
    best, best_scores = -1.0, np.zeros(len(test.label))
    for settings in TREES:
        trees = HistGradientBoostingClassifier(
            max_iter=ROUNDS,
            early_stopping=True,
            n_iter_no_change=PATIENCE,
            min_samples_leaf=FEWEST_IN_A_LEAF,
            categorical_features=mask,
            random_state=0,
            **settings,
        ).fit(known, train.label)
        reached = auc(valid.label, trees.predict_proba(held)[:, 1]) if len(valid.label) else 0.0
        if not reached <= best:  # a NaN too, of one label
            best, best_scores = reached, trees.predict_proba(asked)[:, 1]
    return best_scores


def figures(rows: Rows, score: np.ndarray) -> dict[str, float | None]:
    """AUC, GAUC, LogLoss and the AUC on cold items."""
    cold = rows.segment == b"cold"
    probability = 1 / (1 + np.exp(-score)) if np.any((score < 0) | (score > 1)) else score
    return {
        "auc": _figure(auc(rows.label, score)),
        "gauc": _figure(gauc(rows.user, rows.label, score)),
        "logloss": _figure(log_loss(rows.label, probability)),
        "cold_auc": _figure(auc(rows.label[cold], score[cold])),
    }


def accept(comparison: dict[str, Any], must_beat: bool) -> bool:
    """Whether the ranker may be released, as far as the baselines are concerned."""
    return not must_beat or (comparison["low"] is not None and comparison["low"] > 0)


def sentence(comparison: dict[str, Any]) -> str:
    """The comparison in words."""
    own, best = comparison["ranker"]["auc"], comparison["baselines"][comparison["best"]]["auc"]
    if comparison["difference"] is None or own is None or best is None:
        return "no comparison: the test rows have one label only"
    return (
        f"the ranker's AUC of {own:.4f} less that of {comparison['best']}, {best:.4f}: "
        f"{comparison['difference']:+.4f}, 95% interval [{comparison['low']:+.4f}, {comparison['high']:+.4f}]"
    )


def why_not(comparison: dict[str, Any], accepted: bool) -> str:
    """Why a ranker is not released, and what to do."""
    if accepted:
        return "the Evaluator found it below a limit of the settings `evaluation` (see the report)"
    return (
        f"it is not better than {comparison['best']} by a 95% interval of the AUC. See the report; more epochs, more "
        "data or richer content may help; evaluation.must_beat_baselines=false releases it all the same"
    )


def bless(blessing: types.Artifact, model: types.Artifact, blessed: bool) -> None:
    """Fills a ModelBlessing as TFX's Evaluator does."""
    name = "BLESSED" if blessed else "NOT_BLESSED"
    tf.io.gfile.makedirs(blessing.uri)
    with tf.io.gfile.GFile(f"{blessing.uri}/{name}", "w") as handle:
        handle.write("")
    blessing.set_int_custom_property(BLESSED, int(blessed))
    blessing.set_string_custom_property("current_model", model.uri)
    blessing.set_int_custom_property("current_model_id", model.id)


def _figure(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
