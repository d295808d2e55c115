"""What a variant reached: figures of its ranker on the rows of valid and test, and of its encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx.utils import path_utils

from components.columns import Columns, concatenate
from components.examples import SPLITS, read_split
from mim_keras.metrics import ranking_metrics
from tfx_pipeline.ablation.views import by_age, by_popularity
from tfx_pipeline.evaluation import LAUNCHED, PREDICTION, SEGMENT, SIGNATURE, USER
from tfx_pipeline.preprocessing import LABEL
from tfx_pipeline.run_fns.places import model_run_folder

COLUMNS = (USER, "item_id", "timestamp", LABEL, SEGMENT, LAUNCHED)


@dataclass(frozen=True)
class Rows:
    """n ranking examples, as far as they are measured by.

    Attributes:
        person: A code of the user, int [n].
        label: float [n].
        slices: Name of each slice → bool [n].
    """

    person: np.ndarray
    label: np.ndarray
    slices: dict[str, np.ndarray]

    @staticmethod
    def of(columns: Columns) -> Rows:
        """From columns of the ranking examples."""
        slices = {value.decode(): _equal(columns[SEGMENT], value) for value in (b"cold", b"tail", b"rest")}
        if LAUNCHED in columns:
            slices |= {value.decode(): _equal(columns[LAUNCHED], value) for value in (b"new", b"known")}
        person = columns[USER].dictionary_encode().indices.to_numpy(zero_copy_only=False)
        return Rows(person, columns[LABEL].to_numpy(zero_copy_only=False).astype(np.float32), slices)


def ranker_figures(model: str, examples: str) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a ranker on valid and test, each over all rows and over each slice, and on further cuts of test by
    `popularity` and `age` (see `views`); beside them the click probabilities of test's rows, float32, in their order.

    Args:
        model: Folder of the Model artifact; its signature `serve_examples` reads the rows as a client sends them.
        examples: Folder of HistoryGen's Examples artifact.
    """
    signature = tf.saved_model.load(path_utils.serving_model_path(model)).signatures[SIGNATURE]
    found: dict[str, Any] = {}
    parts, scores = {}, np.zeros(0, np.float32)
    for split in SPLITS:
        columns, answers = [], []
        for records, batch in read_split(examples, split, only=COLUMNS):
            columns.append(batch)
            if split != "train":
                answers.append(signature(examples=tf.constant(records))[PREDICTION].numpy().reshape(-1))
        parts[split] = concatenate(columns)
        if split != "train":
            scores = np.concatenate(answers)
            found[split] = figures(Rows.of(parts[split]), scores)
    test = Rows.of(parts["test"])
    cuts = cuts_of_test(parts)
    found |= {name: figures(replace(test, slices=slices), scores) for name, slices in cuts.items()}
    return found, scores


def figures(rows: Rows, score: np.ndarray) -> dict[str, dict[str, float]]:
    """AUC, GAUC, LogLoss and rows, over `all` and over each slice; `score` are click probabilities of all rows."""
    found = {}
    for name, keep in {"all": np.ones(len(score), bool), **rows.slices}.items():
        if keep.any():
            measured = ranking_metrics(rows.person[keep], rows.label[keep], score[keep])
            found[name] = {**measured, "rows": int(keep.sum())}
    return found


def cuts_of_test(parts: dict[str, Columns]) -> dict[str, dict[str, np.ndarray]]:
    """Cuts of test by the popularity of the item in train, and by its age since anybody saw it; by name, bool [n]."""
    item_ids = pa.concat_arrays([parts[split]["item_id"] for split in SPLITS])
    item = item_ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    moment = np.concatenate([parts[split]["timestamp"].to_numpy(zero_copy_only=False) for split in SPLITS])
    items, tested, trained = item.max() + 1, len(parts["test"]["item_id"]), len(parts["train"]["item_id"])
    clicks = np.bincount(item[:trained], parts["train"][LABEL].to_numpy(zero_copy_only=False), items)
    first = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(first, item, moment)
    test = slice(len(item) - tested, None)
    return {"popularity": by_popularity(item[test], clicks), "age": by_age(item[test], moment[test], first)}


def content_figures(csft_run: str) -> dict[str, dict[str, float]]:
    """Recall@10 of what the encoder did not learn from: `recall_at_10`, and how many times chance that is.

    Of the pictures of held-out items among their words, and the reverse; of held-out pairs among all items, and of
    their parts (see `pair_figures`).

    Args:
        csft_run: Folder of the ModelRun artifact of stage 2, which measured the encoder before and after it.
    """
    outcome = json.loads((model_run_folder(csft_run) / "recall.json").read_text())
    measured = outcome["stage_1"] if outcome["rejected"] else outcome["trained"]
    crossed = measured["cross_modal"]
    found = {
        "picture to words": (crossed["image_to_text"], crossed["chance"]),
        "words to picture": (crossed["text_to_image"], crossed["chance"]),
        **{name: (recall, measured["chance"]) for name, recall in measured["recall_at_10"].items()},
    }
    return {name: {"recall_at_10": value, "times_chance": value / chance} for name, (value, chance) in found.items()}


def _equal(values: pa.Array, value: bytes) -> np.ndarray:
    return pc.equal(values.cast(pa.binary()), value).to_numpy(zero_copy_only=False)
