"""Stage 2: pairs and the stage-1 encoder in, tuned encoder out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.examples import DECODE_ROWS, Columns, concatenate, decode
from mim_keras.config import CsftConfig, from_mapping
from mim_keras.csft import Csft
from mim_keras.encoders.content import ContentReader, ContentTable
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.export import CONTENT_BATCHES, ENCODER_FOLDER, export_encoder
from mim_keras.metrics.retrieval import mean_pairwise_cosine, recall_at
from mim_keras.training.fit import fit, log, optimizer, seeded
from mim_keras.training.strategy import make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue, model_run_folder

MEASURED_PAIRS = 4_000


@dataclass(frozen=True)
class Pairs:
    """Rows of a content table: each query's and each item's, int [pairs]; and whether the query was an intent."""

    query_row: np.ndarray
    item_row: np.ndarray
    is_intent: np.ndarray


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `csft` settings and the catalogue's folder."""
    config = from_mapping(CsftConfig, fn_args.custom_config["csft"])
    training = config.training
    seeded(training)
    strategy = make_strategy(training)
    with strategy.scope():
        encoder, words = ItemEncoder.load_from(Path(fn_args.base_model) / ENCODER_FOLDER)
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"])
    train, valid, table = _read_pairs(fn_args, catalogue, ContentReader(encoder.config, words))
    before = _measure(encoder, table, valid, len(catalogue.item_id))

    content: Any = table
    if config.trainable == "head":
        content = _frozen_features(encoder, table)
    share = np.bincount(train.item_row, minlength=len(table)) + 1.0
    with strategy.scope():
        model = Csft(encoder, config, np.log(share / share.sum()).astype(np.float32))
        model.compile(optimizer=optimizer(training), jit_compile=training.jit_compile)
    logs = model_run_folder(fn_args.model_run_dir)
    fit("csft", model, _dataset(train, content, config), training, log_folder=logs)
    after = _measure(encoder, table, valid, len(catalogue.item_id))
    log.info("csft: held-out pairs %s, stage 1 %s", after, before)
    (logs / "recall.json").write_text(json.dumps({"trained": after, "stage_1": before}, indent=2))
    export_encoder(encoder, words, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))


def _read_split(patterns: list[str]) -> Columns:
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    decoder = ExamplesToRecordBatchDecoder()
    dataset = tf.data.TFRecordDataset(files, "GZIP").batch(DECODE_ROWS)
    batches = [decode(decoder, list(batch)) for batch in dataset.as_numpy_iterator()]
    return concatenate(batches) if batches else {}


def _read_pairs(fn_args: Any, catalogue: Catalogue, reader: ContentReader) -> tuple[Pairs, Pairs, ContentTable]:
    """Pairs of both splits as rows of one content table: the catalogue first, then each query's own content."""
    place = {item_id: row for row, item_id in enumerate(catalogue.item_id)}
    image, title, text = list(catalogue.image), list(catalogue.title), list(catalogue.text)
    own_rows: dict[tuple[bytes, bytes], int] = {}

    def place_pairs(columns: Columns) -> Pairs:
        names = ("query_item_id", "query_image", "query_text", "item_id")
        rows = list(zip(*(columns[name].to_pylist() for name in names), strict=True)) if columns else []
        query_row, item_row, is_intent = [], [], []
        for query_item, query_image, query_text, item in rows:
            if query_item:
                query_row.append(place[query_item])
            else:
                content = (query_image, query_text)
                if content not in own_rows:
                    own_rows[content] = len(image)
                    image.append(query_image)
                    title.append(query_text)
                    text.append(b"")
                query_row.append(own_rows[content])
            item_row.append(place[item])
            is_intent.append(not query_item)
        return Pairs(np.array(query_row, np.int64), np.array(item_row, np.int64), np.array(is_intent, bool))

    train, valid = place_pairs(_read_split(fn_args.train_files)), place_pairs(_read_split(fn_args.eval_files))
    if len(train.item_row) < 2:
        raise ValueError(
            f"C-SFT needs at least 2 training pairs; PairGen made {len(train.item_row)}. "
            "Widen data.pairs.window_seconds, or bring a longer click log or intents."
        )
    columns = []
    for values in (image, title, text):
        array = np.empty(len(values), object)
        array[:] = values
        columns.append(array)
    return train, valid, ContentTable(reader, *columns)


class _FrozenFeatures:
    """Features of every row, computed once; stands in for a `ContentTable`."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = columns

    def rows(self, rows: Any) -> dict[str, Any]:
        return {name: tf.gather(values, rows) for name, values in self.columns.items()}


def _frozen_features(encoder: ItemEncoder, table: ContentTable, batch: int = 256) -> _FrozenFeatures:
    call = tf.function(lambda rows: encoder.features(table.rows(rows)))
    parts = [call(tf.range(b, min(b + batch, len(table)))) for b in range(0, len(table), batch)]
    columns = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
    encoder.freeze_towers()
    return _FrozenFeatures(columns)


def _dataset(pairs: Pairs, content: Any, config: CsftConfig) -> tf.data.Dataset:
    training = config.training
    batch_size = min(training.batch_size, len(pairs.item_row))

    def read(query_row: tf.Tensor, item_row: tf.Tensor) -> dict[str, Any]:
        query, item = content.rows(query_row), content.rows(item_row)
        return {"query": query, "item": item, "query_row": query_row, "item_row": item_row}

    dataset = (
        tf.data.Dataset.from_tensor_slices((pairs.query_row, pairs.item_row))
        .shuffle(len(pairs.item_row), seed=training.seed)
        .batch(batch_size, drop_remainder=True)
    )
    if config.max_steps_per_epoch:
        dataset = dataset.take(config.max_steps_per_epoch)
    return dataset.map(read, tf.data.AUTOTUNE).prefetch(2)


def _measure(encoder: ItemEncoder, table: ContentTable, pairs: Pairs, items: int) -> dict[str, float]:
    """Recall@10 of held-out pairs over the whole catalogue, and the collapse alarm."""
    joint = table.encode(encoder)["joint"]
    figures = {"mean_pairwise_cosine": mean_pairwise_cosine(joint[:items]), "chance": 10 / items}
    for name, keep in (("intents", pairs.is_intent), ("histories", ~pairs.is_intent)):
        query, item = pairs.query_row[keep][:MEASURED_PAIRS], pairs.item_row[keep][:MEASURED_PAIRS]
        if len(query):
            figures[f"recall_at_10_{name}"] = recall_at(joint[query], joint[:items], item, 10)
    return figures
