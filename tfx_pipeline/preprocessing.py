"""tf.Transform: what must be the same in training and in serving."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

ITEM_VOCABULARY = "item_id"
USER_VOCABULARY = "user_id"
LABEL = "clicked"
# Kept as they are; the ranker turns item ids into rows of its own table.
PASSED_ON = ("item_id", "history_item_ids", "history_ages", "timestamp", LABEL)
NUMBER = r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Ranking examples → indices.

    Learns from split `train` which users and items were seen often enough to have a row of their own
    (`vocabulary_min_count`), the values of each categorical feature, and the boundaries of each feature that is
    cut into buckets.

    Args:
        inputs: Raw features.
        custom_config: `categorical_features`; of these `bucketed_features`, which are numbers, cut into `buckets`
            of as many rows each; `vocabulary_min_count`; `oov_buckets`, how many rows share out the values not learned.
    """
    floor, others = custom_config["vocabulary_min_count"], custom_config["oov_buckets"]
    outputs = {name: inputs[name] for name in PASSED_ON if name in inputs}
    if "item_id" in inputs:
        tft.vocabulary(inputs["item_id"], frequency_threshold=floor, vocab_filename=ITEM_VOCABULARY)
    outputs["user_index"] = _index(inputs["user_id"], USER_VOCABULARY, floor, others)
    for name in custom_config["categorical_features"]:
        if name in custom_config["bucketed_features"]:
            outputs[f"{name}_index"] = _bucket(inputs[name], name, custom_config["buckets"])
        else:
            outputs[f"{name}_index"] = _index(inputs[name], name, floor, others)
    return outputs


def index_size(vocabulary_size: int, custom_config: dict[str, Any]) -> int:
    """How many values `_index` can take."""
    return vocabulary_size + int(custom_config["oov_buckets"])


def bucket_size(custom_config: dict[str, Any]) -> int:
    """How many values `_bucket` can take."""
    return int(custom_config["buckets"]) + 1


def _index(values: tf.Tensor, name: str, floor: int, others: int) -> tf.Tensor:
    """[0, others) by hash for a value not learned, the learned ones after that, the commonest first."""
    known = tft.compute_and_apply_vocabulary(values, default_value=-1, frequency_threshold=floor, vocab_filename=name)
    return tf.where(known < 0, tf.strings.to_hash_bucket_fast(values, others), known + others)


def _bucket(values: tf.Tensor, name: str, buckets: int) -> tf.Tensor:
    """0 for what is no number, then 1 to `buckets` by quantiles of the training part."""
    is_number = tf.strings.regex_full_match(values, NUMBER)
    numbers = tf.strings.to_number(tf.strings.strip(tf.where(is_number, values, "0")))
    weights = tf.cast(is_number, tf.float32)
    boundaries = tft.quantiles(numbers, buckets, epsilon=0.001, weights=weights, name=f"{name}_boundaries")
    return tf.where(is_number, tft.apply_buckets(numbers, boundaries) + 1, 0)
