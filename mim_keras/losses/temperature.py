"""Learned temperatures of contrastive losses."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.config.stages import MIN_TEMPERATURE
from mim_keras.ops.distribution import all_gather


def add_log_logit_scale(model: keras.Model, name: str, temperature: float) -> Any:
    """Adds a scalar weight to `model`: the logarithm of an inverse temperature.

    Args:
        model: Whose weight it is.
        name: Of the weight.
        temperature: Initial value.
    """
    initial = keras.initializers.Constant(math.log(1 / temperature))
    return model.add_weight(shape=(), initializer=initial, name=name)


def logit_scale(log_logit_scale: Any) -> Any:
    """1 / temperature, float32; the temperature does not fall below `MIN_TEMPERATURE`."""
    return ops.cast(ops.exp(ops.minimum(log_logit_scale, math.log(1 / MIN_TEMPERATURE))), "float32")


def alignment_logits(image: Any, text: Any, log_logit_scale: Any) -> Any:
    """Cosine similarities of all replicas' images [B, d] with all their texts [B, d], over temperature; float32."""
    similarity = ops.matmul(all_gather(image), ops.transpose(all_gather(text)))
    return ops.cast(similarity, "float32") * logit_scale(log_logit_scale)
