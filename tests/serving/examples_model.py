"""A model of tf.Examples with the signatures that Classify and Regress want: y = 2x."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf


class OfExamples(tf.Module):
    @staticmethod
    def _x(examples: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32, 0.0)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": 2 * self._x(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        x = self._x(inputs)
        names = tf.tile(tf.constant([["low", "high"]]), [tf.size(x), 1])
        return {"classes": names, "scores": tf.stack([0.5 + 0 * x, x], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def flat(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": tf.cast(self._x(inputs), tf.float64), "classes": inputs}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def double(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": tf.cast(self._x(inputs), tf.float64)}


def export_examples(folder: Path) -> None:
    module = OfExamples()
    folder.parent.mkdir(parents=True, exist_ok=True)
    signatures = {
        "regress": module.regress,
        "classify": module.classify,
        "flat": module.flat,
        "double": module.double,
    }
    tf.saved_model.save(module, str(folder), signatures)
