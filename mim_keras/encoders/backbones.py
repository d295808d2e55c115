"""Pretrained backbones of keras-hub as towers: the half that reads pictures or words, and its transformer blocks.

A preset is a name of keras-hub's, or a local folder in its layout (`save_to_preset`).  Of models that keras-hub has a
converter for, a Hugging Face folder does too: ViT, DeiT, Swin, DINOv2 and DINOv3 for pictures, BERT, DistilBERT,
ALBERT, RoBERTa and XLM-RoBERTa for words, MetaCLIP 2 for both.  CLIP and SigLIP have none, and are read from
keras-hub's layout alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import keras_nlp
from keras import ops

# Their words are compared with pictures: a projection of one place of the text, and no mask.
_PAIRED = (keras_nlp.models.CLIPBackbone, keras_nlp.models.MetaCLIP2Backbone, keras_nlp.models.SigLIPBackbone)
_PAIRED_WORDS = (
    keras_nlp.models.CLIPPreprocessor,
    keras_nlp.models.MetaCLIP2CausalLMPreprocessor,
    keras_nlp.models.SigLIPPreprocessor,
)
_WORD_INPUTS = {"token_ids", "padding_mask", "segment_ids"}


def picture_backbone(preset: str, size: int) -> tuple[keras.Model, Any, Any]:
    """The part of a preset that reads pictures.

    Args:
        preset: Name or folder: ViT, DINOv2, CLIP, SigLIP and others; see the module for what a folder may hold.
        size: Pixels a side that it will be given.

    Returns:
        A model of pictures [B, size, size, 3], and the scale and offset that bring pixels of 0..255 to what it was
        trained on.

    Raises:
        ValueError: keras-hub cannot read it, it reads words alone, or pictures of another size.
    """
    whole = _whole(preset)
    both = hasattr(whole, "get_vision_embeddings")  # CLIP and SigLIP: the projection that words are compared with
    shape = getattr(whole.vision_encoder if both else whole, "image_shape", None)
    if shape is None:
        raise ValueError(
            f"image.preset must name a backbone that reads pictures; {preset} is a {type(whole).__name__}. "
            "Choose a ViT, DINOv2, CLIP or SigLIP."
        )
    if shape[0] not in (None, size):
        raise ValueError(f"{preset} reads pictures of {shape[0]} pixels; received image.size={size}. Set it to that.")
    if both:
        pictures = keras.Input(shape=(size, size, 3))
        whole = keras.Model(pictures, whole.get_vision_embeddings(pictures))
    return whole, *_pixels(preset)


def word_backbone(preset: str, max_tokens: int) -> keras.Model:
    """The part of a preset that reads words: a whole BERT or RoBERTa, the text half of a CLIP or SigLIP.

    Its `input` names what it takes: `token_ids` int [B, T], `padding_mask` [B, T], and `segment_ids` [B, T] where the
    model has segments.  It gives a vector a token [B, T, ·], or, a text half, one a text [B, ·].

    A text half reads no mask: what that hides is left out (`ShownTokens`).  CLIP's vector stands at the end token, and
    nothing behind it counts; SigLIP's at the last place of a fixed length, to which every text is padded, so T may be
    less in both.

    Args:
        preset: Name or folder; see the module for what a folder may hold.
        max_tokens: Tokens of a text that it will be given, at most.

    Raises:
        ValueError: keras-hub cannot read it, it reads pictures alone, or fewer tokens.
    """
    whole = _whole(preset)
    if isinstance(whole, _PAIRED):
        return _text_half(whole, preset, max_tokens)
    if not isinstance(whole.input, dict) or "token_ids" not in whole.input or whole.input.keys() - _WORD_INPUTS:
        raise ValueError(
            f"text.preset must name a backbone that reads words; {preset} is a {type(whole).__name__}. "
            "Choose a BERT, RoBERTa, CLIP or SigLIP."
        )
    return whole


def word_preprocessor(preset: str, max_tokens: int) -> Any | None:
    """keras-hub's own preparation of the words of a CLIP, MetaCLIP 2 or SigLIP: lower case, without punctuation for
    SigLIP, and the special tokens that each was trained with.  None of other presets: their tokenizers know all that.

    Call takes {"prompts": texts [B], "images": None} and returns `token_ids` int32 [B, max_tokens] and `padding_mask`
    bool [B, max_tokens] beside the images.
    """
    try:
        found = keras_nlp.models.CausalLMPreprocessor.from_preset(
            preset, sequence_length=max_tokens, image_converter=None
        )
    except ValueError:  # keras-hub has no such class for a BERT
        return None
    return found if isinstance(found, _PAIRED_WORDS) else None


@keras.saving.register_keras_serializable("mim")
class ShownTokens(keras.layers.Layer):
    """Token ids without those that are hidden, for a text encoder that reads no mask: those behind them move up, as if
    the text had been without those words, and padding fills the row.  The end token, which such an encoder looks for,
    always stays.

    Args:
        end: Id of the end token.
        pad: Id of padding; may be that of the end token.
        length: Columns that come out; None for as many as come in.

    Call takes token ids int32 [B, T] and a mask [B, T], 0 where a token is hidden or padding, and returns int32
    [B, length].
    """

    def __init__(self, end: int, pad: int, length: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.end, self.pad, self.length = end, pad, length

    def call(self, token_ids: Any, mask: Any) -> Any:
        stays = ops.logical_or(ops.cast(mask, "bool"), ops.equal(token_ids, self.end))
        columns = ops.shape(token_ids)[1]
        place = ops.arange(columns)[None, :]
        order = ops.argsort(ops.where(stays, place, place + columns), axis=1)  # (B, T): what stays, then the rest
        shown = ops.take_along_axis(ops.where(stays, token_ids, self.pad), order, axis=1)
        if self.length is None:
            return shown
        return ops.pad(shown, [[0, 0], [0, self.length]], constant_values=self.pad)[:, : self.length]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "end": self.end, "pad": self.pad, "length": self.length}


def _whole(preset: str) -> keras.Model:
    """A preset's backbone, or an error that says what can be read."""
    try:
        return keras_nlp.models.Backbone.from_preset(preset)
    except ValueError as error:
        raise ValueError(
            "a preset is a name that keras-hub knows, a folder in its layout, or a Hugging Face folder of a model that "
            f"it has a converter for; received {preset}: {error} CLIP and SigLIP it reads from its own layout alone: "
            "name keras-hub's preset of them."
        ) from error


def _pixels(preset: str) -> tuple[Any, Any]:
    """The scale and offset that bring pixels of 0..255 to what a preset was trained on; -1..1 where it does not say."""
    with suppress(ValueError, FileNotFoundError):  # a backbone saved without its preprocessing
        converter = keras_nlp.layers.ImageConverter.from_preset(preset)
        if converter is not None:
            return (
                1.0 if converter.scale is None else converter.scale,
                0.0 if converter.offset is None else converter.offset,
            )
    stated = Path(preset) / "preprocessor_config.json"  # Hugging Face's, which keras-hub reads of few models
    if not stated.is_file():
        return 1 / 127.5, -1.0
    own = json.loads(stated.read_text())
    mean, std = own.get("image_mean", [0.5] * 3), own.get("image_std", [0.5] * 3)
    unit = own.get("rescale_factor", 1 / 255)
    return [unit / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _text_half(whole: keras.Model, preset: str, max_tokens: int) -> keras.Model:
    """Token ids and mask → the vector that a CLIP or SigLIP compares with pictures."""
    limit = whole.text_encoder.max_sequence_length
    if max_tokens > limit:
        raise ValueError(f"{preset} reads {limit} tokens of a text; received text.max_tokens={max_tokens}. Lower it.")
    tokenizer = keras_nlp.models.Tokenizer.from_preset(preset)
    tokens = keras.Input(shape=(None,), dtype="int32", name="token_ids")
    mask = keras.Input(shape=(None,), dtype="int32", name="padding_mask")
    length = limit if isinstance(whole, keras_nlp.models.SigLIPBackbone) else None
    shown = ShownTokens(tokenizer.end_token_id, tokenizer.pad_token_id, length)(tokens, mask)
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, whole.get_text_embeddings(shown))


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
