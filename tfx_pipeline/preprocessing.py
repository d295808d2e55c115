"""tf.Transform: what must be the same in training and in serving."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

ITEM_VOCABULARY = "item_id"
USER_VOCABULARY = "user_id"
LABEL = "clicked"
# Kept as they are, as labels are; the ranker turns item ids into rows of its own table.
PASSED_ON = ("item_id", "history_item_ids", "history_ages", "timestamp")
STATISTICS = "statistics"
VALUES_OF_COUNTS, VALUES_OF_AGES, SHARE_SCALE, MAX_SCORE = 4, 2, 10_000.0, 5.0
NUMBER = r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Ranking examples → indices.

    Learns from split `train` which users and items were seen often enough to have a row of their own
    (`vocabulary_min_count`), the values of each categorical feature, and the boundaries of each feature that is
    cut into buckets.

    Args:
        inputs: Raw features.
        custom_config: `labels`; `categorical_features`; of these `bucketed_features`, which are numbers, cut into
            `buckets` of as many rows each; `vocabulary_min_count`, and `min_counts` of user and item ids;
            `oov_buckets`, how many rows share out the values not learned; `statistics`, the names of what the feature
            `statistics` counts, `dates`, how many ages follow these counts, and `smoothing` of its click rates.
    """
    floor, others = custom_config["vocabulary_min_count"], custom_config["oov_buckets"]
    floors = custom_config["min_counts"]
    outputs = {name: inputs[name] for name in (*PASSED_ON, *custom_config["labels"]) if name in inputs}
    if "item_id" in inputs:
        tft.vocabulary(inputs["item_id"], frequency_threshold=floors[ITEM_VOCABULARY], vocab_filename=ITEM_VOCABULARY)
    outputs["user_index"] = _index(inputs["user_id"], USER_VOCABULARY, floors[USER_VOCABULARY], others)
    for name in custom_config["categorical_features"]:
        if name in custom_config["bucketed_features"]:
            outputs[f"{name}_index"] = _bucket(inputs[name], name, custom_config["buckets"])
        else:
            outputs[f"{name}_index"] = _index(inputs[name], name, floor, others)
    if custom_config["statistics"]:
        outputs[STATISTICS] = _scaled_statistics(inputs[STATISTICS], custom_config)
    return outputs


def index_size(vocabulary_size: int, custom_config: dict[str, Any]) -> int:
    """How many values `_index` can take."""
    return vocabulary_size + int(custom_config["oov_buckets"])


def bucket_size(custom_config: dict[str, Any]) -> int:
    """How many values `_bucket` can take."""
    return int(custom_config["buckets"]) + 1


def statistics_size(custom_config: dict[str, Any]) -> int:
    """How many numbers `_scaled_statistics` makes of a row."""
    if not custom_config["statistics"]:
        return 0
    return VALUES_OF_COUNTS * (len(custom_config["statistics"]) - 1) + VALUES_OF_AGES * int(custom_config["dates"])


def _scaled_statistics(statistics: tf.Tensor, custom_config: dict[str, Any]) -> tf.Tensor:
    """Counts → numbers that a network reads: impressions and clicks, log-odds of the click rate, recency.

    Impressions and clicks are `log(1 + 10,000 · share of all impressions)`: a share does not grow with the log, so
    that a model meets the numbers that it was trained on.  A rate is smoothed by `smoothing` impressions of the overall
    click rate; the counts of all come first.  Recency is 1/√(1 + days since the last click), 0 for none.  An age is
    `log(1 + days)`, 0 where the date is unknown, and whether it is known.  Each number is scaled to a mean of 0 and a
    variance of 1 in training and clipped to ±5; the last is 0 or 1.

    Args:
        statistics: Impressions, clicks, seconds since the last click, for each entity, then seconds since each date,
            int64 [B, 3 · entities + dates].
        custom_config: Settings.

    Returns:
        float32 [B, 4 · (entities - 1) + 2 · dates].
    """
    smoothing, entities = custom_config["smoothing"], len(custom_config["statistics"])
    numbers = tf.cast(statistics, tf.float32)
    counts, ages = tf.reshape(numbers[:, : 3 * entities], [-1, entities, 3]), numbers[:, 3 * entities :]
    overall, counts = counts[:, :1], counts[:, 1:]
    impressions, clicks, seconds = counts[..., 0], counts[..., 1], counts[..., 2]
    prior = (overall[..., 1] + 1.0) / (overall[..., 0] + 2.0)
    # More clicks than impressions may be known: an impression of the span before, clicked in this one.
    rate = tf.clip_by_value((clicks + smoothing * prior) / (impressions + smoothing), 1e-6, 1 - 1e-6)
    recency = tf.where(seconds < 0, 0.0, tf.math.rsqrt(1.0 + tf.maximum(seconds, 0.0) / 86_400.0))
    shares = [tf.math.log1p(SHARE_SCALE * counted / (overall[..., 0] + 1.0)) for counted in (impressions, clicks)]
    age = tf.math.log1p(tf.maximum(ages, 0.0) / 86_400.0)
    values = [*shares, tf.math.log(rate / (1 - rate)), recency, age]
    scaled = tft.scale_to_z_score(tf.concat(values, axis=1), elementwise=True, name=STATISTICS)
    return tf.concat([tf.clip_by_value(scaled, -MAX_SCORE, MAX_SCORE), tf.cast(ages >= 0, tf.float32)], axis=1)


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
