"""A text tower around a keras-hub backbone, and the tokens it reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import keras_nlp

from mim_keras.config import TextTowerConfig, from_mapping, to_mapping
from mim_keras.encoders.backbones import word_backbone, word_preprocessor


class TextTokens:
    """Strings → token ids and padding mask, by TensorFlow operations that also run inside a SavedModel.

    Of a preset, as its model was trained: the tokenizer's own case and special tokens, for CLIP and SigLIP all of
    keras-hub's preprocessing (see `word_preprocessor`).

    Args:
        config: Length, and the preset the tokenizer comes from, if any.
        vocabulary: The word pieces, in order, where there is no preset.
    """

    def __init__(self, config: TextTowerConfig, vocabulary: list[str] | None = None) -> None:
        self.vocabulary = vocabulary
        self._preprocessor = word_preprocessor(config.preset, config.max_tokens) if config.preset else None
        if self._preprocessor is not None:
            self.tokenizer = self._preprocessor.tokenizer
            return
        if config.preset:
            self.tokenizer = keras_nlp.models.Tokenizer.from_preset(config.preset)
        else:
            self.tokenizer = keras_nlp.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
        self._packer = keras_nlp.layers.StartEndPacker(
            sequence_length=config.max_tokens,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    def __call__(self, texts: Any) -> tuple[Any, Any]:
        """Texts [B] → token ids int32 [B, T], padding mask bool [B, T]."""
        if self._preprocessor is not None:
            read = self._preprocessor({"prompts": texts, "images": None})
            return read["token_ids"], read["padding_mask"]
        tokens, mask = self._packer(self.tokenizer(texts))
        return tokens, mask


def make_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """At most `size` word pieces learned from `texts`, the special tokens first."""
    import tensorflow as tf  # the trainer takes a tf.data.Dataset; nothing else here needs TensorFlow by name

    lines = [text for text in texts if text]
    if not lines:
        raise ValueError("a vocabulary needs text; no item of the catalogue has a title or a text")
    pieces: list[str] = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        tf.data.Dataset.from_tensor_slices(lines).batch(512),
        vocabulary_size=size,
        lowercase=True,
        strip_accents=True,
    )
    return pieces


@keras.saving.register_keras_serializable("mim")
class TextTower(keras.layers.Layer):
    """Token ids → features: a transformer backbone and the mean over the tokens that are not padding; of the text
    half of a CLIP or SigLIP, its own vector.

    A token whose mask is 0 says nothing, be it padding or hidden for training: a BERT or RoBERTa attends to none of
    them, and of a text half, which reads no mask, the text is as if it had been without those words.  So a text has the
    same vector whatever T is, and whatever texts are beside it.

    Args:
        config: Shape of the backbone, or the preset it comes from.
        vocabulary_size: Rows of its token embedding, where there is no preset.

    Call takes token ids int32 [B, T] and padding mask [B, T], and returns features [B, hidden].
    """

    def __init__(self, config: TextTowerConfig, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.vocabulary_size = config, vocabulary_size
        if config.preset:
            self.backbone = word_backbone(config.preset, config.max_tokens)
        else:
            self.backbone = keras_nlp.models.BertBackbone(
                vocabulary_size=vocabulary_size,
                num_layers=config.layers,
                num_heads=config.heads,
                hidden_dim=config.hidden_dim,
                intermediate_dim=2 * config.hidden_dim,
                max_sequence_length=config.max_tokens,
                dropout=0.0,
            )
        for layer in self.backbone.layers:  # the mean over tokens is used, so BERT's own pooling learns nothing
            if layer.name == "pooled_dense":
                layer.trainable = False
        output = self.backbone.output
        self.width = int((output["sequence_output"] if isinstance(output, dict) else output).shape[-1])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """The backbone is built by its own constructor."""

    def call(self, token_ids: Any, padding_mask: Any) -> Any:
        inputs = {
            "token_ids": token_ids,
            "padding_mask": padding_mask,
            "segment_ids": keras.ops.zeros_like(token_ids),
        }
        output = self.backbone({name: inputs[name] for name in self.backbone.input})
        sequence = output["sequence_output"] if isinstance(output, dict) else output
        if len(sequence.shape) == 2:
            return sequence
        mask = keras.ops.cast(padding_mask, sequence.dtype)[..., None]  # (B, T, 1)
        return keras.ops.sum(sequence * mask, axis=1) / keras.ops.maximum(keras.ops.sum(mask, axis=1), 1.0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        return (input_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        own = {"config": to_mapping(self.config), "vocabulary_size": self.vocabulary_size}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextTower:
        return cls(from_mapping(TextTowerConfig, config.pop("config")), **config)
