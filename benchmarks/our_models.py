"""Our rankers of `benchmarks/train.py`; all that it knows of `mim_keras` stands here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.training_run import BATCH, Stopwatch, TrainingRun
from mim_keras import ItemTableData, VocabularySizes, make_ranker
from mim_keras.config import BASELINES, CiubmConfig, from_mapping
from mim_keras.serving.signatures_ranker import item_lookup
from mim_keras.training.run_training import TrainingRun as FitSettings
from mim_keras.training.run_training import run_training
from mim_keras.training.train_ranker import compile_ranker
from tfx_pipeline.run_fns.ranking_examples import RankingExamples
from tfx_pipeline.settings import Settings

TRAINING = {"batch_size": BATCH, "jit_compile": True, "steps_per_execution": 20}
HIDDEN = [256, 128, 64]  # the peers'
AS_PEER: dict[str, dict[str, Any]] = {"din": {"hidden": HIDDEN}, "dcn": {"hidden": HIDDEN, "cross_layers": 3}}
WIDTH = 128


def trained(name: str, folder: Path, seconds: float) -> TrainingRun:
    """Trains a ranker on the rows in `folder`, as the pipeline does, until its warm steps were timed for so long.

    Args:
        name: ciubm | din | dcn | ml1m; with "streamed" behind it, the files are read anew in each epoch.
        folder: Of `train.write_rows`.
        seconds: Of warm steps.
    """
    kind, _, streamed = name.partition(" ")
    config = _config(kind)
    if streamed:
        config = replace(config, max_rows_in_memory=0)
    items, users = _items(kind, folder, config)
    one, several = tf.io.FixedLenFeature, tf.io.VarLenFeature
    spec = {"user_index": one([1], tf.int64), "clicked": one([1], tf.int64), "item_id": one([1], tf.string)}
    spec |= {"history_item_ids": several(tf.string), "history_ages": several(tf.int64)}
    keras.utils.set_random_seed(1)
    watch = Stopwatch(seconds)
    lookup = item_lookup(np.arange(1, len(items.id_index)), folder / "item_ids.txt")
    batches = RankingExamples([f"{folder}/rows-*.gz"], spec, lookup, config).for_training(items)
    watch.read()
    model = make_ranker(config, VocabularySizes(users), items)
    compile_ranker(model, batches.steps)
    run_training(model, batches, FitSettings("train", epochs=10**6, callbacks=[_Until(watch)]))
    return watch.run(batches.steps)


def _config(kind: str) -> CiubmConfig:
    if kind == "ml1m":
        config = Settings.load("ml1m").stages.ciubm
        assert config.training.batch_size == BATCH, "its steps are held against the peer's"
        return config
    as_peer = {**BASELINES[kind], **AS_PEER[kind]} if kind in AS_PEER else {}
    return from_mapping(CiubmConfig, {"training": TRAINING, **as_peer})


def _items(kind: str, folder: Path, config: CiubmConfig) -> tuple[ItemTableData, int]:
    """The item table, and how many users there are.  Of ml1m's vectors, in float16, the first numbers are the joint
    view and the others what the sentence encoder says."""
    with np.load(folder / "rows.npz") as rows:
        genres, users = rows["genres_of"][1:], int(rows["user"].max()) + 1
    rng, items = np.random.default_rng(1), len(genres)
    if kind == "ml1m":
        joint, text = rng.standard_normal((items, config.ensemble_split_dim)), np.load(folder / "text.npy")[1:]
        vectors = np.concatenate([joint, text], axis=1).astype(np.float16)
    else:
        vectors = rng.integers(-40, 41, (items, WIDTH)).astype(np.int8)
    categories = [[f"g{place}" for place in set(own) - {0}] for own in genres]
    return ItemTableData.from_items(vectors, np.ones(items, bool), categories, np.arange(1, items + 1)), users


class _Until(keras.callbacks.Callback):
    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._watch.enough(int(self.model.optimizer.iterations)):  # Keras may count several steps as one
            self.model.stop_training = True
