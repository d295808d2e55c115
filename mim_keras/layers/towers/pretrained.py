"""Pretrained keras-hub backbones as towers: their image or text half, and their transformer blocks.

A preset is a keras-hub preset name, or a local folder in keras-hub's layout (`save_to_preset`).  Where keras-hub has a
converter, a Hugging Face folder works too: ViT, DeiT, Swin, DINOv2 and DINOv3 for images; BERT, DistilBERT, ALBERT,
RoBERTa and XLM-RoBERTa for text; MetaCLIP 2 for both.  CLIP and SigLIP have none: name keras-hub's preset of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import keras_hub
from keras import ops

from mim_keras.layers.towers.drop_masked_tokens import DropMaskedTokens

_DUAL_ENCODERS = (
    keras_hub.models.CLIPBackbone,
    keras_hub.models.MetaCLIP2Backbone,
    keras_hub.models.SigLIPBackbone,
)
_DUAL_ENCODER_PREPROCESSORS = (
    keras_hub.models.CLIPPreprocessor,
    keras_hub.models.MetaCLIP2CausalLMPreprocessor,
    keras_hub.models.SigLIPPreprocessor,
)
_TEXT_INPUTS = {"token_ids", "padding_mask", "segment_ids"}
_LORA_LAYERS = ("query", "value", "query_dense", "value_dense", "query_proj", "value_proj", "q_proj", "v_proj")


def load_image_backbone(preset: str, image_size: int, dtype: Any = None) -> tuple[keras.Model, Any, Any]:
    """The image half of a preset.

    Args:
        preset: Name or folder: ViT, DINOv2, CLIP, SigLIP and others; see the module.
        image_size: Pixels a side that it will read.
        dtype: Dtype policy of the backbone; None for the global one.

    Returns:
        A model of images [B, size, size, 3], and the scale and offset that map pixels of 0..255 to its input range.

    Raises:
        ValueError: keras-hub cannot load it, it reads text only, or images of another size.
    """
    backbone = _load_backbone(preset, dtype)
    is_dual = hasattr(backbone, "get_vision_embeddings")
    shape = getattr(backbone.vision_encoder if is_dual else backbone, "image_shape", None)
    if shape is None:
        raise ValueError(
            f"image.preset must name an image backbone; {preset} is a {type(backbone).__name__}. "
            "Choose a ViT, DINOv2, CLIP or SigLIP."
        )
    if shape[0] not in (None, image_size):
        raise ValueError(
            f"{preset} reads images of {shape[0]} pixels; received image.image_size={image_size}. Set it to that."
        )
    if is_dual:  # the projection that is compared with text
        images = keras.Input(shape=(image_size, image_size, 3))
        backbone = keras.Model(images, backbone.get_vision_embeddings(images))
    return backbone, *_image_normalization(preset)


def load_text_backbone(preset: str, max_tokens: int, dtype: Any = None) -> keras.Model:
    """The text half of a preset: a whole BERT or RoBERTa, or the text encoder of a CLIP or SigLIP.

    Its `input` names what it reads: `token_ids` int [B, T], `padding_mask` [B, T], and `segment_ids` [B, T] where the
    model has segments.  It returns one vector a token, [B, T, ·], or, for a text encoder of a pair, one a text, [B, ·].

    The text encoders of CLIP and SigLIP read no mask, so masked tokens are dropped (`DropMaskedTokens`).  CLIP reads
    its output at the end token; SigLIP at the last position of a fixed length, to which every text is padded.

    Args:
        preset: Name or folder; see the module.
        max_tokens: Longest text that it will read.
        dtype: Dtype policy of the backbone; None for the global one.

    Raises:
        ValueError: keras-hub cannot load it, it reads images only, or fewer tokens.
    """
    backbone = _load_backbone(preset, dtype)
    if isinstance(backbone, _DUAL_ENCODERS):
        return _text_encoder(backbone, preset, max_tokens)
    inputs = backbone.input
    if not isinstance(inputs, dict) or "token_ids" not in inputs or inputs.keys() - _TEXT_INPUTS:
        raise ValueError(
            f"text.preset must name a text backbone; {preset} is a {type(backbone).__name__}. "
            "Choose a BERT, RoBERTa, CLIP or SigLIP."
        )
    return backbone


def load_text_preprocessor(preset: str, max_tokens: int) -> Any | None:
    """keras-hub's own text preprocessing of a CLIP, MetaCLIP 2 or SigLIP; None for other presets.

    It lower-cases, for SigLIP drops punctuation, and adds the special tokens that each was trained with.  Call takes
    {"prompts": texts [B], "images": None} and returns `token_ids` int32 [B, max_tokens] and `padding_mask` bool.
    """
    try:
        preprocessor = keras_hub.models.CausalLMPreprocessor.from_preset(
            preset, sequence_length=max_tokens, image_converter=None
        )
    except ValueError:  # keras-hub has no such class for a BERT
        return None
    return preprocessor if isinstance(preprocessor, _DUAL_ENCODER_PREPROCESSORS) else None


def _load_backbone(preset: str, dtype: Any = None) -> keras.Model:
    options = {} if dtype is None else {"dtype": dtype}
    try:
        return keras_hub.models.Backbone.from_preset(preset, **options)
    except ValueError as error:
        raise ValueError(
            "a preset is a keras-hub preset name, a folder in its layout, or a Hugging Face folder of a model that it "
            f"has a converter for; received {preset}: {error} keras-hub reads CLIP and SigLIP from its own layout: "
            "name its preset of them."
        ) from error


def _image_normalization(preset: str) -> tuple[Any, Any]:
    """The scale and offset of a preset's pixels; those of -1..1 where it states none."""
    with suppress(ValueError, FileNotFoundError):  # a backbone saved without its preprocessing
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
        if converter is not None:
            return (
                1.0 if converter.scale is None else converter.scale,
                0.0 if converter.offset is None else converter.offset,
            )
    stated = hugging_face_preprocessing(preset)
    if stated is None:
        return 1 / 127.5, -1.0
    mean, std = stated.get("image_mean", [0.5] * 3), stated.get("image_std", [0.5] * 3)
    unit = stated.get("rescale_factor", 1 / 255)
    return [unit / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def hugging_face_preprocessing(preset: str) -> dict[str, Any] | None:
    """The `preprocessor_config.json` of a Hugging Face folder; None where there is none."""
    file = Path(preset) / "preprocessor_config.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _text_encoder(backbone: keras.Model, preset: str, max_tokens: int) -> keras.Model:
    """Token ids and mask → the vector that a CLIP or SigLIP compares with images."""
    limit = backbone.text_encoder.max_sequence_length
    if max_tokens > limit:
        raise ValueError(f"{preset} reads {limit} tokens of a text; received text.max_tokens={max_tokens}. Lower it.")
    tokenizer = keras_hub.models.Tokenizer.from_preset(preset)
    token_ids = keras.Input(shape=(None,), dtype="int32", name="token_ids")
    padding_mask = keras.Input(shape=(None,), dtype="int32", name="padding_mask")
    length = limit if isinstance(backbone, keras_hub.models.SigLIPBackbone) else None
    kept = DropMaskedTokens(tokenizer.end_token_id, tokenizer.pad_token_id, length)(token_ids, padding_mask)
    inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
    return keras.Model(inputs, backbone.get_text_embeddings(kept))


def pool_features(output: Any) -> Any:
    """One vector an image: of tokens the first and the mean of the others; of a feature map the mean; else as it is."""
    if isinstance(output, dict):
        output = output["sequence_output"]
    if len(output.shape) == 4:
        return ops.mean(output, axis=(1, 2))
    if len(output.shape) == 3:
        return ops.concatenate([output[:, 0], ops.mean(output[:, 1:], axis=1)], axis=-1)
    return output


def transformer_blocks(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The transformer blocks of a backbone, from the input up: layers that hold an attention layer."""
    return [
        layer
        for layer in _flatten_layers(model)
        if "Attention" not in type(layer).__name__
        and not isinstance(layer, keras.Model)
        and any("Attention" in type(sublayer).__name__ for sublayer in layer._layers)
    ]


def unfreeze_top_blocks(tower: keras.layers.Layer, count: int) -> None:
    """Freezes what comes before the last `count` transformer blocks of a tower; these and what follows are trained.

    Raises:
        ValueError: it has fewer blocks.
    """
    blocks = transformer_blocks(tower)
    if count > len(blocks):
        raise ValueError(
            f"trainable: top-{count} needs towers of {count} blocks; received a {type(tower).__name__} of "
            f"{len(blocks)}. Lower it."
        )
    first = blocks[len(blocks) - count]
    for layer in _flatten_layers(tower):
        if layer is first:
            return
        if first not in _flatten_layers(layer):
            layer.trainable = False


def enable_lora(tower: keras.layers.Layer, rank: int) -> int:
    """Freezes a tower but for low-rank adapters of the query and value projections of its attention layers.

    Uses Keras' own `enable_lora`: a saved tower holds the merged kernels.

    Returns:
        How many projections got an adapter.
    """
    projections = []
    for block in transformer_blocks(tower):
        for layer in _flatten_layers(block):
            if layer.name in _LORA_LAYERS and hasattr(layer, "enable_lora"):
                projections.append(layer)
    for layer in _flatten_layers(tower):
        layer.trainable = False
    for layer in projections:
        layer.trainable = True
        layer.enable_lora(rank)
        if layer.bias is not None:
            layer.bias.trainable = False
    return len(projections)


def _flatten_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """All layers inside a layer, in the order in which they were added."""
    for sublayer in layer._layers:
        yield sublayer
        yield from _flatten_layers(sublayer)
