"""A small ranker to serve: scores by the length of an item's id, or by its vector where it has one of the Center."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

ENCODER = "e1"


def _text(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.string, name)


INPUTS = [
    _text("user_id"),
    _text("history_item_ids"),
    tf.TensorSpec([None], tf.int64, "history_ages"),
    _text("candidate_item_ids"),
]


class Ranker(tf.Module):
    """`rank` and `rank_with_vectors`; items named new… have no vector of its own."""

    @tf.function(input_signature=INPUTS)
    def rank(
        self, user_id: tf.Tensor, history_item_ids: tf.Tensor, history_ages: tf.Tensor, candidate_item_ids: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return {
            "ctr": tf.cast(tf.strings.length(candidate_item_ids), tf.float32) / 100,
            "has_vector": ~tf.strings.regex_full_match(candidate_item_ids, "new.*"),
            "encoder_version": tf.constant([ENCODER]),
        }

    @tf.function(
        input_signature=[
            *INPUTS,
            tf.TensorSpec([None, 8], tf.float32, "candidate_vectors"),
            _text("encoder_version"),
        ]
    )
    def rank_with_vectors(
        self,
        user_id: tf.Tensor,
        history_item_ids: tf.Tensor,
        history_ages: tf.Tensor,
        candidate_item_ids: tf.Tensor,
        candidate_vectors: tf.Tensor,
        encoder_version: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        known = self.rank(user_id, history_item_ids, history_ages, candidate_item_ids)
        vectors = tf.reshape(candidate_vectors, [-1, 8])
        return known | {"ctr": known["ctr"] + tf.reduce_sum(tf.square(vectors), axis=1)}


def export(folder: Path) -> None:
    """Writes the ranker as a version."""
    module = Ranker()
    tf.saved_model.save(module, str(folder), {"rank": module.rank, "rank_with_vectors": module.rank_with_vectors})


def config(models: Path, labels: dict[str, int]) -> str:
    """A ModelServerConfig of all its versions."""
    labelled = " ".join(f'version_labels {{ key: "{name}" value: {version} }}' for name, version in labels.items())
    return (
        f'model_config_list {{ config {{ name: "mim_ranker" base_path: "{models}/mim_ranker" '
        f'model_platform: "tensorflow" model_version_policy {{ all {{ }} }} {labelled} }} }}'
    )
