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

from components.baseline_check.rows import ItemContent, RowReader, Rows
from components.examples import read_split
from components.item_attributes import attribute_values
from components.storage import on_local_disk
from mim_keras.layers import ItemTableData
from mim_keras.metrics import auc, gauc, log_loss, paired_auc_difference
from serving.representation_center.snapshot import Snapshot
from serving.representation_center.vectors import restore_vectors

FILE = "comparison.json"
TRAIN_ROWS, TEST_ROWS = 400_000, 1_000_000  # the most that the trees are fitted on, and that are compared
FEWEST_OF_A_LABEL = 20  # training rows, for trees
TREES = ({"learning_rate": 0.1, "max_leaf_nodes": 31}, {"learning_rate": 0.05, "max_leaf_nodes": 15})
ROUNDS, STEP, PATIENCE, FEWEST_IN_A_LEAF = 300, 10, 30, 50  # trees at most, at a time, without a gain; rows of a leaf
UNWATCHED_ROUNDS = 100  # trees where there are no validation rows
BLESSED = "blessed"


class Executor(base_executor.BaseExecutor):
    """Writes `comparison.json`, and a blessing where the ranker may be released."""

    @on_local_disk
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
        model = tf.saved_model.load(path_utils.serving_model_path(folder("model")))
        signature = model.signatures["serve_examples"]
        test, scores = reader.read("test", TEST_ROWS, lambda rows: signature(examples=tf.constant(rows))["ctr"].numpy())
        comparison = compare(train, valid, test, scores, reader.categorical)
        accepted = accept(comparison, bool(exec_properties["must_beat"]))
        (evaluated,) = input_dict["evaluated"]
        blessed = accepted and evaluated.get_int_custom_property(BLESSED) == 1
        (model_artifact,) = input_dict["model"]
        bless(output_dict["blessing"][0], model_artifact, blessed)
        out = Path(artifact_utils.get_single_uri(output_dict["comparison"]))
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_text(json.dumps(comparison | {"accepted": accepted}, indent=2))
        logging.info("baselines: %s", sentence(comparison))
        if not blessed:
            logging.warning("baselines: the ranker is not released: %s", why_not(comparison, accepted))


def item_content(items: str, snapshot: Snapshot, kinds: dict[str, str]) -> ItemContent:
    """Content embeddings and attributes of all items, in the snapshot's order.

    Args:
        items: Folder of the Examples artifact.
        snapshot: Of the embeddings.
        kinds: Of the attributes beside the category, by name.
    """
    columns: dict[str, list[bytes]] = {name: [] for name in ("item_id", "category", *kinds)}
    for split in ("train", "valid"):
        for _, found in read_split(items, split, only=tuple(columns)):
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


def compare(train: Rows, valid: Rows, test: Rows, scores: np.ndarray, categorical: list[bool]) -> dict[str, Any]:
    """The ranker and the baselines on the test rows.

    Returns:
        `rows`; `ranker` and `baselines` by name, each with `auc`, `gauc`, `logloss` and `cold_auc`; `best`, the
        baseline of the largest AUC; and `difference` of the ranker's AUC and its, `low`, `high`: a 95 % interval over
        users.  Figures that cannot be computed are None.
    """
    item, user, overall = test.rates.T
    log_odds = {"item click rate": item, "item and user click rates": item + user - overall}
    baselines = {name: 1 / (1 + np.exp(-value)) for name, value in log_odds.items()}
    clicks = int(train.label.sum())
    if min(clicks, len(train.label) - clicks) >= FEWEST_OF_A_LABEL and len(test.label):
        baselines["gradient boosting"] = boosted_scores(train, valid, test, categorical)
    found = {name: figures(test, score) for name, score in baselines.items()}
    best = max(found, key=lambda name: found[name]["auc"] or 0.0)
    comparison = {"rows": len(test.label), "ranker": figures(test, scores), "baselines": found, "best": best}
    if len(np.unique(test.label)) < 2 or not np.isfinite(scores).all():
        return comparison | {"difference": None, "low": None, "high": None}
    found_difference = paired_auc_difference(test.user, test.label, scores, baselines[best])
    return comparison | {name: _figure(value) for name, value in found_difference._asdict().items()}


def boosted_scores(train: Rows, valid: Rows, test: Rows, categorical: list[bool]) -> np.ndarray:
    """Scores of scikit-learn's gradient boosting, float [test rows].

    It reads as numbers what a shop declares: point-in-time statistics, click rates of item and user outside the
    row's own fold, context, the cosine similarity of the candidate and the history, and their shared attributes.  Of
    two settings, and of their numbers of trees, those of the least LogLoss on the validation rows are taken.
    """
    known, held, asked = (
        np.concatenate([rows.features, rows.rates[:, :2]], axis=1).astype(np.float32) if len(rows.label) else None
        for rows in (train, valid, test)
    )
    assert known is not None
    mask = np.array([*categorical, *([False] * (known.shape[1] - len(categorical)))])
    best, best_scores = np.inf, np.zeros(len(test.label))
    for settings in TREES:
        trees = HistGradientBoostingClassifier(
            early_stopping=False,
            warm_start=True,
            min_samples_leaf=FEWEST_IN_A_LEAF,
            categorical_features=mask,
            random_state=0,
            **settings,
        )
        least, since = np.inf, 0
        for rounds in range(STEP, (ROUNDS if held is not None else UNWATCHED_ROUNDS) + 1, STEP):
            trees.set_params(max_iter=rounds).fit(known, train.label)
            reached = -rounds if held is None else log_loss(valid.label, trees.predict_proba(held)[:, 1])
            if reached < best:
                best, best_scores = reached, trees.predict_proba(asked)[:, 1]
            least, since = (reached, 0) if reached < least else (least, since + STEP)
            if since >= PATIENCE:
                break
    return best_scores


def figures(rows: Rows, score: np.ndarray) -> dict[str, float | None]:
    """AUC, GAUC, LogLoss and the AUC on cold items."""
    if not len(score) or not np.isfinite(score).all():
        return dict.fromkeys(("auc", "gauc", "logloss", "cold_auc"))
    cold = rows.segment == b"cold"
    return {
        "auc": _figure(auc(rows.label, score)),
        "gauc": _figure(gauc(rows.user, rows.label, score)),
        "logloss": _figure(log_loss(rows.label, score)),
        "cold_auc": _figure(auc(rows.label[cold], score[cold])),
    }


def accept(comparison: dict[str, Any], must_beat: bool) -> bool:
    """Whether the ranker may be released, as far as the baselines are concerned."""
    return not must_beat or (comparison["low"] is not None and comparison["low"] > 0)


def sentence(comparison: dict[str, Any]) -> str:
    """The comparison in words."""
    own, best = comparison["ranker"]["auc"], comparison["baselines"][comparison["best"]]["auc"]
    if comparison["difference"] is None or own is None or best is None:
        return "no comparison: the test rows have one label only, or the ranker's scores are not finite"
    word = "above" if comparison["difference"] >= 0 else "below"
    return (
        f"the ranker's AUC of {own:.4f} is {abs(comparison['difference']):.4f} {word} that of {comparison['best']} "
        f"({best:.4f}), the best baseline; 95% interval of the difference [{comparison['low']:+.4f}, "
        f"{comparison['high']:+.4f}]"
    )


def why_not(comparison: dict[str, Any], accepted: bool) -> str:
    """Why a ranker is not released, and what to do."""
    if comparison["difference"] is None:
        return sentence(comparison)
    if accepted:
        return "it failed evaluation.min_auc, evaluation.max_auc_drop or evaluation.min_examples (see the report)"
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
