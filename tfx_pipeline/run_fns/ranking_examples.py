"""Reads transformed ranking examples as the ranker takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mim_keras.config import CiubmConfig
from mim_keras.layers import ItemTableData
from mim_keras.training.epoch_dataset import EpochDataset, shuffle_and_batch, zip_seeds
from mim_keras.training.ranking_dataset import ranking_dataset, sample_id_dropout
from mim_keras.training.strategy import global_batch_size
from tfx_pipeline.preprocessing import STATISTICS

SHUFFLE_ROWS, READ_ROWS = 200_000, 8_192
CLICKS, AGES = "history_item_ids", "history_ages"
_MOST = np.iinfo(np.int32).max


class RankingExamples:
    """Transformed tf.Examples as `CiUBM`'s input.

    Args:
        patterns: Of gzipped TFRecord files.
        spec: Of the transformed features.
        lookup: Item ids → rows of the item table.
        config: History's length, batch size, id dropout.
        context: Names of the context features.
    """

    def __init__(
        self,
        patterns: list[str],
        spec: Mapping[str, Any],
        lookup: keras.layers.StringLookup,
        config: CiubmConfig,
        context: tuple[str, ...] = (),
    ) -> None:
        self._patterns, self._lookup, self._config, self._context = patterns, lookup, config, context
        wanted = ["item_id", "user_index", *config.labels, *(f"{name}_index" for name in context)]
        wanted += [STATISTICS] if STATISTICS in spec else []
        # Lists as ragged tensors, whose values are looked up without their padding: twice the speed of sparse ones.
        lists = (CLICKS, AGES) if config.reads_ages else (CLICKS,)
        ragged = {name: tf.io.RaggedFeature(spec[name].dtype, row_splits_dtype=tf.int64) for name in lists}
        self._features = {**{name: spec[name] for name in wanted}, **ragged}

    def in_order(self, batch_size: int) -> tf.data.Dataset:
        """Every row once: batches of (inputs of `CiUBM`, labels float32 [B], or [B, labels] of several labels)."""
        return self._records().batch(batch_size).map(self._parse, tf.data.AUTOTUNE).prefetch(4)

    def for_training(self, items: ItemTableData) -> EpochDataset:
        """Shuffled whole batches of the same, some of the ids hidden.

        Where there are at most `config.max_rows_in_memory` rows, they are read once and kept as numbers, 200 bytes each
        with a history of 50, 200 more where ages are read, and 100 where targets and clicks are compared; else every
        epoch reads the files anew.

        Args:
            items: What targets and clicks are compared by.
        """
        config, training = self._config, self._config.training
        parts, count = [], 0
        for part in self.in_order(READ_ROWS):
            count += int(part[1].shape[0])
            if count > config.max_rows_in_memory:
                return self.streamed()
            parts.append(part)
        with tf.device("/CPU:0"):
            columns = {name: tf.concat([inputs[name] for inputs, _ in parts], axis=0) for name in parts[0][0]}
            label = tf.concat([label for _, label in parts], axis=0)
        parts.clear()
        batch_size = global_batch_size(training, count)
        similarity_items = items if config.can_precompute_similarity else None
        return ranking_dataset(columns, label, batch_size, training.seed, config.id_dropout, similarity_items)

    def streamed(self) -> EpochDataset:
        """As `for_training`, read from the files in each epoch; shuffled before they are parsed, which costs little."""
        config, training = self._config, self._config.training
        records = self._records().batch(READ_ROWS)
        count = int(records.reduce(np.int64(0), lambda n, batch: n + tf.size(batch, tf.int64)))

        batch_size = global_batch_size(training, count)

        def parse(serialised: tf.Tensor, draw: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            inputs, label = self._parse(serialised)
            return sample_id_dropout(inputs, config.id_dropout, draw) if config.id_dropout else inputs, label

        def make(epoch: tf.Tensor) -> tf.data.Dataset:
            batches = shuffle_and_batch(self._records(), SHUFFLE_ROWS, epoch, batch_size)
            return zip_seeds(batches, epoch).map(parse, tf.data.AUTOTUNE)

        return EpochDataset(make, training.seed, count // batch_size)

    def _parse(self, serialised: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed, length, rows = (
            tf.io.parse_example(serialised, self._features),
            self._config.history_length,
            self._item_rows,
        )
        clicks = _latest(parsed[CLICKS], length)
        inputs = {
            "item_row": rows(parsed["item_id"][:, 0]),
            "history_rows": _laid_out(clicks.with_flat_values(rows(clicks.flat_values)), length),
            "user_index": tf.cast(parsed["user_index"][:, 0], tf.int32),
        }
        if AGES in parsed:
            ages = _latest(parsed[AGES], length)
            seconds = tf.cast(tf.minimum(ages.flat_values, _MOST), tf.int32)
            inputs["history_ages"] = _laid_out(ages.with_flat_values(seconds), length)
        if self._context:
            context = [tf.cast(parsed[f"{name}_index"], tf.int32) for name in self._context]
            inputs["context"] = tf.concat(context, axis=1)
        if STATISTICS in parsed:
            inputs["statistics"] = parsed[STATISTICS]
        labels = tf.cast(tf.concat([parsed[name] for name in self._config.labels], axis=1), tf.float32)
        return inputs, labels if len(self._config.labels) > 1 else labels[:, 0]

    def _item_rows(self, item_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._lookup(item_ids), tf.int32)

    def _records(self) -> tf.data.Dataset:
        files = sorted(file for pattern in self._patterns for file in tf.io.gfile.glob(pattern))
        return tf.data.TFRecordDataset(files, "GZIP")


def _latest(lists: tf.RaggedTensor, length: int) -> tf.RaggedTensor:
    """The last `length` values of each list; asked first, for to cut lists costs an eighth of reading."""
    longest = tf.reduce_max(lists.row_lengths())
    return tf.cond(longest > length, lambda: lists[:, -length:], lambda: lists)


def _laid_out(lists: tf.RaggedTensor, length: int) -> tf.Tensor:
    """[B, length], padding behind."""
    return lists.to_tensor(0, shape=[None, length])
