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


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Ranking examples → indices.

    Learns from split `train` which users and items were seen often enough to have a row of their own
    (`vocabulary_min_count`), and the values of each categorical feature.  Index 0 is shared by all others.

    Args:
        inputs: Raw features.
        custom_config: `categorical_features` and `vocabulary_min_count`.
    """
    floor = custom_config["vocabulary_min_count"]
    outputs = {name: inputs[name] for name in PASSED_ON if name in inputs}
    if "item_id" in inputs:
        tft.vocabulary(inputs["item_id"], frequency_threshold=floor, vocab_filename=ITEM_VOCABULARY)
    outputs["user_index"] = _index(inputs["user_id"], USER_VOCABULARY, floor)
    for name in custom_config["categorical_features"]:
        outputs[f"{name}_index"] = _index(inputs[name], name, floor)
    return outputs


def _index(values: tf.Tensor, name: str, floor: int) -> tf.Tensor:
    found = tft.compute_and_apply_vocabulary(values, default_value=-1, frequency_threshold=floor, vocab_filename=name)
    return found + 1
