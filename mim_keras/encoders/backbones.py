"""Pretrained backbones of keras-hub as towers: the half that reads pictures or words, and its transformer blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import keras_nlp
from keras import ops


def picture_backbone(preset: str, size: int) -> tuple[keras.Model, Any, Any]:
    """The part of a preset that reads pictures.

    Args:
        preset: Name, or a local folder in keras-hub's or Hugging Face's layout: ViT, DINOv2, CLIP, SigLIP and others.
        size: Pixels a side that it will be given.

    Returns:
        A model of pictures [B, size, size, 3], and the scale and offset that bring pixels of 0..255 to what it was
        trained on.

    Raises:
        ValueError: it reads words alone, or pictures of another size.
    """
    whole = keras_nlp.models.Backbone.from_preset(preset)
    both = hasattr(whole, "get_vision_embeddings")  # CLIP and SigLIP: the projection that words are compared with
    shape = getattr(whole.vision_encoder if both else whole, "image_shape", None)
    if shape is None:
        raise ValueError(
            f"image.preset must name a backbone that reads pictures; {preset} is a {type(whole).__name__}. "
            "Choose a ViT, DINOv2, CLIP or SigLIP."
        )
    if shape[0] not in (None, size):
        raise ValueError(f"{preset} reads pictures of {shape[0]} pixels; received image.size={size}. Set it to that.")
    scale, offset = 1 / 127.5, -1.0
    try:
        converter = keras_nlp.layers.ImageConverter.from_preset(preset)
        scale = 1.0 if converter.scale is None else converter.scale
        offset = 0.0 if converter.offset is None else converter.offset
    except (ValueError, FileNotFoundError):
        pass  # a backbone saved without its preprocessing
    if both:
        pictures = keras.Input(shape=(size, size, 3))
        whole = keras.Model(pictures, whole.get_vision_embeddings(pictures))
    return whole, scale, offset


def word_backbone(preset: str) -> keras.Model:
    """The part of a preset that reads words: a whole BERT or RoBERTa, the text half of a CLIP or SigLIP.

    Raises:
        ValueError: it reads pictures alone.
    """
    whole = keras_nlp.models.Backbone.from_preset(preset)
    if hasattr(whole, "get_text_embeddings"):
        tokens = keras.Input(shape=(None,), dtype="int32", name="token_ids")
        return keras.Model({"token_ids": tokens}, whole.get_text_embeddings(tokens))
    if not isinstance(whole.input, dict) or "token_ids" not in whole.input:
        raise ValueError(
            f"text.preset must name a backbone that reads words; {preset} is a {type(whole).__name__}. "
            "Choose a BERT, RoBERTa, CLIP or SigLIP."
        )
    return whole


def pooled(output: Any) -> Any:
    """One vector a picture: as it is; of tokens the first and the mean of the others; of a map of pixels the mean."""
    if isinstance(output, dict):
        output = output["sequence_output"]
    if len(output.shape) == 4:
        return ops.mean(output, axis=(1, 2))
    if len(output.shape) == 3:
        return ops.concatenate([output[:, 0], ops.mean(output[:, 1:], axis=1)], axis=-1)
    return output


def blocks(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The transformer blocks of a backbone, from the input up: layers that hold a layer of attention."""
    return [
        layer
        for layer in _within(model)
        if "Attention" not in type(layer).__name__
        and not isinstance(layer, keras.Model)
        and any("Attention" in type(own).__name__ for own in layer._layers)
    ]


def train_top(tower: keras.layers.Layer, count: int) -> None:
    """Freezes what comes before the last `count` blocks of a tower; these and what follows them learn.

    Raises:
        ValueError: it has fewer.
    """
    own = blocks(tower)
    if count > len(own):
        raise ValueError(
            f"trainable: top-{count} needs towers of {count} blocks; {type(tower).__name__} has {len(own)}. Lower it."
        )
    first = own[len(own) - count]
    for layer in _within(tower):
        if layer is first:
            return
        if first not in _within(layer):
            layer.trainable = False


def _within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers that a layer is made of, and theirs, in the order in which they were put in."""
    for own in layer._layers:
        yield own
        yield from _within(own)
