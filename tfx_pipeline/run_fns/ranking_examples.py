"""Reads transformed ranking examples as the ranker takes them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import CiubmConfig
from mim_keras.export import ItemRows
from mim_keras.training.batches import hide_some_ids, ranking_batches, with_seeds
from tfx_pipeline.preprocessing import LABEL

SHUFFLE_ROWS, READ_ROWS = 200_000, 8_192
LISTS = ("history_item_ids", "history_ages")
_MOST = np.iinfo(np.int32).max


def training_examples(
    patterns: list[str], spec: Mapping[str, Any], rows: ItemRows, config: CiubmConfig, context: tuple[str, ...]
) -> tuple[tf.data.Dataset, int]:
    """Shuffled batches of (inputs of `CiUBM`, labels float32 [B]) from the training split, and how many an epoch has.

    Where there are at most `config.rows_in_memory`, they are read once and kept as numbers, 400 bytes each with a
    history of 50; else every epoch reads the files anew.

    Args:
        patterns: Of gzipped TFRecord files.
        spec: Of the transformed features.
        rows: Item ids → rows of the item table.
        config: History's length, batch size, id dropout.
        context: Names of the context features.
    """
    training = config.training
    read = functools.partial(read_ranking_examples, patterns, spec, rows, config, context)
    parts, count = [], 0
    for part in read(train=False, batch_size=READ_ROWS):
        count += int(part[1].shape[0])
        if count > config.rows_in_memory:
            break
        parts.append(part)
    else:
        columns = {name: np.concatenate([inputs[name] for inputs, _ in parts]) for name in parts[0][0]}
        label = np.concatenate([label for _, label in parts])
        batch_size = min(training.batch_size, count)  # a table smaller than a batch is one batch
        dataset = ranking_batches(columns, label, batch_size, training.seed, config.id_dropout)
        return dataset, count // batch_size
    del parts
    records = _records(patterns).batch(READ_ROWS)
    count = int(records.reduce(np.int64(0), lambda n, batch: n + tf.size(batch, tf.int64)))
    return read(train=True, batch_size=training.batch_size), count // training.batch_size


def read_ranking_examples(
    patterns: list[str],
    spec: Mapping[str, Any],
    rows: ItemRows,
    config: CiubmConfig,
    context: tuple[str, ...],
    train: bool,
    batch_size: int,
) -> tf.data.Dataset:
    """Transformed tf.Examples → (inputs of `CiUBM`, labels float32 [B]), read anew each time.

    In training, records are shuffled before they are parsed, which costs little, and whole batches are parsed
    at once; histories as ragged tensors, whose values are looked up without their padding: twice the speed of sparse
    ones.

    Args:
        patterns, spec, rows, config, context: As `training_examples` takes them.
        train: Shuffled, in whole batches, with some ids hidden; else every row once, in order.
        batch_size: Rows of a batch.
    """
    wanted = ["item_id", "user_index", LABEL, *(f"{name}_index" for name in context)]
    features = {name: spec[name] for name in wanted}
    features |= {name: tf.io.RaggedFeature(spec[name].dtype, row_splits_dtype=tf.int64) for name in LISTS}

    def parse(serialised: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = tf.io.parse_example(serialised, features)
        clicks, ages = (parsed[name][:, -config.history_length :] for name in LISTS)
        inputs = {
            "item_row": rows(parsed["item_id"][:, 0]),
            "history_rows": _laid_out(clicks.with_flat_values(rows(clicks.flat_values)), config.history_length),
            "history_ages": _laid_out(
                ages.with_flat_values(tf.cast(tf.minimum(ages.flat_values, _MOST), tf.int32)), config.history_length
            ),
            "user_index": tf.cast(parsed["user_index"][:, 0], tf.int32),
        }
        if context:
            inputs["context"] = tf.concat([tf.cast(parsed[f"{name}_index"], tf.int32) for name in context], axis=1)
        return inputs, tf.cast(parsed[LABEL][:, 0], tf.float32)

    def parse_and_hide(serialised: tf.Tensor, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        inputs, label = parse(serialised)
        return hide_some_ids(inputs, config.id_dropout, seed), label

    records = _records(patterns)
    if not train:
        return records.batch(batch_size).map(parse, tf.data.AUTOTUNE).prefetch(4)
    batches = records.shuffle(SHUFFLE_ROWS, seed=config.training.seed).batch(batch_size, drop_remainder=True)
    if not config.id_dropout:
        return batches.map(parse, tf.data.AUTOTUNE).prefetch(4)
    return with_seeds(batches, config.training.seed).map(parse_and_hide, tf.data.AUTOTUNE).prefetch(4)


def _records(patterns: list[str]) -> tf.data.Dataset:
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    return tf.data.TFRecordDataset(files, "GZIP")


def _laid_out(lists: tf.RaggedTensor, length: int) -> tf.Tensor:
    """[B, length], padding behind."""
    return lists.to_tensor(0, shape=[None, length])
