"""The item encoder: an image tower and a text tower, projected into one space and fused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
from keras import ops

from mim_keras.config import EncoderConfig, from_mapping, to_mapping
from mim_keras.encoders.image_tower import ImageTower
from mim_keras.encoders.text_tower import TextTokens, TextTower

VIEWS = ("image", "text", "joint")
Content = dict[str, Any]
Views = dict[str, Any]


def normalise(x: Any) -> Any:
    """Scales vectors [..., d] to length one; a zero vector stays zero."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


class ItemEncoder(keras.Model):
    """Content → three vectors of length one: `image`, `text` and `joint`, each [B, embedding_dim].

    A missing modality takes no part: its own view is zero, and the gate of the fusion leaves it out.  An item
    with neither has a zero `joint` vector.

    Args:
        config: Shape of the towers and the embedding.
        vocabulary_size: Word pieces of the text tower.

    Call takes content: `image` float [B, size, size, 3] in 0..1, `image_mask` [B], `token_ids` int32 [B, T],
    `token_mask` [B, T], `text_mask` [B].
    """

    def __init__(self, config: EncoderConfig, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.image_tower = ImageTower(config.image)
        self.text_tower = TextTower(config.text, vocabulary_size)
        self.image_head = keras.layers.Dense(config.embedding_dim)
        self.text_head = keras.layers.Dense(config.embedding_dim)
        self.gate = keras.layers.Dense(1)

    def build(self, input_shape: Any = None) -> None:
        size, d = self.config.image.size, self.config.embedding_dim
        self.image_tower.build((None, size, size, 3))
        self.image_head.build((None, 2 * self.config.image.widths[-1]))
        self.text_tower.build((None, self.config.text.max_tokens))
        self.text_head.build((None, self.text_tower.width))
        self.gate.build((None, d))
        self.built = True

    def features(self, content: Content) -> Content:
        """What the towers say, before projection; constant while the towers are frozen."""
        return {
            "image_features": self.image_tower(content["image"]),
            "image_mask": content["image_mask"],
            "text_features": self.text_tower(content["token_ids"], content["token_mask"]),
            "text_mask": content["text_mask"],
        }

    def embed(self, features: Content) -> Views:
        """Features → views; the part that is trained when the towers are frozen."""
        raw = [self.image_head(features["image_features"]), self.text_head(features["text_features"])]
        masks = [ops.cast(features[name], raw[0].dtype)[:, None] for name in ("image_mask", "text_mask")]
        image, text = (normalise(vector) * mask for vector, mask in zip(raw, masks, strict=True))
        # (B, 2, 1): how much each modality counts; one that is missing counts nothing
        gates = ops.stack([self.gate(image), self.gate(text)], axis=1)
        present = ops.stack(masks, axis=1)
        weights = ops.softmax(ops.where(present > 0, gates, -1e9), axis=1) * present
        joint = normalise(ops.sum(weights * ops.stack([image, text], axis=1), axis=1))
        return {"image": image, "text": text, "joint": joint}

    def call(self, content: Content) -> Views:
        return self.embed(self.features(content))

    def save_to(self, folder: Path, tokens: TextTokens) -> None:
        """Writes settings, vocabulary and weights into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(to_mapping(self.config), indent=2))
        if tokens.vocabulary is not None:
            (folder / "vocabulary.txt").write_text("\n".join(tokens.vocabulary))
        self.save_weights(folder / "encoder.weights.h5")

    @classmethod
    def load_from(cls, folder: Path) -> tuple[ItemEncoder, TextTokens]:
        """The encoder that `save_to` wrote, and its tokens.

        Raises:
            FileNotFoundError: `folder` holds no encoder.
        """
        config = from_mapping(EncoderConfig, json.loads((folder / "encoder.json").read_text()))
        words = folder / "vocabulary.txt"
        tokens = TextTokens(config.text, words.read_text().split("\n") if words.exists() else None)
        encoder = cls(config, tokens.tokenizer.vocabulary_size())
        encoder.build()
        encoder.load_weights(folder / "encoder.weights.h5")
        return encoder, tokens
