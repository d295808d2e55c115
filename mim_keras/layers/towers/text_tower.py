"""Tokens to features: a transformer backbone."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
from keras import ops

from mim_keras.config import TextTowerConfig
from mim_keras.layers.base import MaskConsumingLayer, check_rank
from mim_keras.layers.towers.pretrained import load_text_backbone


@keras.saving.register_keras_serializable("mim")
class TextTower(MaskConsumingLayer):
    """Token ids → features: the mean over a backbone's tokens; of a CLIP or SigLIP text encoder, its own vector.

    Masked tokens have no effect, be they padding or masked in training.  So a text has the same features whatever T is
    and whatever texts are in the batch.

    Args:
        backbone: A model of `token_ids`, `padding_mask` and perhaps `segment_ids`, each [B, T].

    Call arguments:
        token_ids: int32 [B, T].
        padding_mask: [B, T], 0 where a token is masked or padding.

    Returns:
        float [B, output_dim].

    Example:
        >>> import numpy as np
        >>> from mim_keras.config import TextTowerConfig
        >>> from mim_keras.layers.towers import TextTower
        >>> tower = TextTower.from_settings(TextTowerConfig(hidden_dim=8, heads=2), vocabulary_size=10)
        >>> tower(np.array([[2, 5, 3, 0]]), padding_mask=np.array([[1, 1, 1, 0]])).shape
        TensorShape([1, 8])
    """

    config_parts = ("backbone",)

    def __init__(self, backbone: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        for layer in backbone.layers:  # the mean over tokens is used, so BERT's own pooling is not trained
            if layer.name == "pooled_dense":
                layer.trainable = False
        output = backbone.output
        self.output_dim = int((output["sequence_output"] if isinstance(output, dict) else output).shape[-1])
        self.feature_groups = [self.output_dim]

    @classmethod
    def from_settings(cls, config: TextTowerConfig, vocabulary_size: int, **kwargs: Any) -> TextTower:
        """The tower of these settings; loads the weights of a preset."""
        dtype = kwargs.get("dtype")
        if config.preset:
            return cls(load_text_backbone(config.preset, config.max_tokens, dtype), **kwargs)
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=vocabulary_size,
            num_layers=config.layers,
            num_heads=config.heads,
            hidden_dim=config.hidden_dim,
            intermediate_dim=2 * config.hidden_dim,
            max_sequence_length=config.max_tokens,
            dropout=0.0,
            dtype=dtype,
        )
        return cls(backbone, **kwargs)

    def build(self, token_ids_shape: Any, padding_mask_shape: Any = None) -> None:
        check_rank(self, "token_ids", token_ids_shape, "batch tokens")

    def call(self, token_ids: Any, padding_mask: Any) -> Any:
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask, "segment_ids": ops.zeros_like(token_ids)}
        output = self.backbone({name: inputs[name] for name in self.backbone.input})
        sequence = ops.cast(output["sequence_output"] if isinstance(output, dict) else output, self.compute_dtype)
        if len(sequence.shape) == 2:
            return sequence
        mask = ops.cast(padding_mask, sequence.dtype)[..., None]  # (B, T, 1)
        return ops.sum(sequence * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)

    def compute_output_shape(self, token_ids_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (token_ids_shape[0], self.output_dim)
