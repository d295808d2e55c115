"""The item encoder: towers for words and pictures, projected into one space and fused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import EncoderConfig, from_mapping, to_mapping
from mim_keras.encoders.backbones import blocks, train_top
from mim_keras.encoders.image_tower import ImageTower
from mim_keras.encoders.lexical_tower import LexicalTower, block_widths
from mim_keras.encoders.normalise import normalise, normalise_blocks
from mim_keras.encoders.projection_head import ProjectionHead
from mim_keras.encoders.text_reader import TextReader, numbered
from mim_keras.encoders.text_tower import TextTower

VIEWS = ("image", "text", "joint")
Content = dict[str, Any]
Views = dict[str, Any]


class ItemEncoder(keras.Model):
    """Content → three views, `image`, `text` and `joint`, each [B, embedding_dim], and the item's `vector`
    [B, vector_dim], which is what the Representation Center keeps; all of length one.

    A missing modality takes no part: its own view is zero, and the gate of the fusion leaves it out.  An item
    with neither has a zero `joint` view and a zero `vector`.

    The vector is the joint view, or, by `config.vector`, several parts side by side: the joint view, and blocks of what
    the towers say.  Each part counts alike: the cosine of two vectors is the mean of their parts' cosines.

    With `config.residual` each view is v + W v of length one, W zero until a training of the residuals alone.

    Args:
        config: Shape of the towers and the embedding.
        reader: What the towers for words read.

    Call takes content: `image` float [B, size, size, 3] in 0..1, `image_mask` [B], `text_mask` [B], and what the
    reader gives: `token_ids` int32 [B, T], `token_mask` [B, T], `term_ids` int32 and
    `term_weights` [B, K], and `term_ids_1`, … of further lexical towers.
    """

    def __init__(self, config: EncoderConfig, reader: TextReader, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.image_tower = ImageTower(config.image)
        self.text_tower = None
        if reader.tokens is not None:
            self.text_tower = TextTower(config.text, reader.tokens.tokenizer.vocabulary_size())
        self.lexical_towers = [
            LexicalTower(len(own.terms), block_widths(own.terms, lexical))
            for own, lexical in zip(reader.terms, config.lexicals, strict=True)
        ]
        self.image_head = ProjectionHead(config.embedding_dim, config.head_hidden)
        self.text_head = ProjectionHead(config.embedding_dim, config.head_hidden)
        self.gate = keras.layers.Dense(1)
        self.residuals: dict[str, keras.layers.Layer] = {}
        if config.residual:
            options = {"use_bias": False, "kernel_initializer": "zeros", "trainable": False}
            self.residuals = {view: keras.layers.Dense(config.embedding_dim, **options) for view in VIEWS}

    def build(self, input_shape: Any = None) -> None:
        size, d = self.config.image.size, self.config.embedding_dim
        self.image_tower.build((None, size, size, 3))
        self.image_head.build((None, self.image_tower.width))
        width = 0
        if self.text_tower is not None:
            self.text_tower.build((None, self.config.text.max_tokens))
            width += self.text_tower.width
        for tower, lexical in zip(self.lexical_towers, self.config.lexicals, strict=True):
            tower.build((None, lexical.max_terms), (None, lexical.max_terms))
            width += tower.width
        self.text_head.build((None, width))
        self.gate.build((None, d))
        for residual in self.residuals.values():
            residual.build((None, d))
        self.built = True

    def features(self, content: Content) -> Content:
        """What the towers say, before projection; constant while the towers are frozen."""
        return {
            "image_features": self.image_tower(content["image"]),
            "image_mask": content["image_mask"],
            "text_features": self._text_features(content),
            "text_mask": content["text_mask"],
        }

    def _text_features(self, content: Content) -> Any:
        parts = []
        if self.text_tower is not None:
            parts.append(self.text_tower(content["token_ids"], content["token_mask"]))
        for place, tower in enumerate(self.lexical_towers):
            parts.append(tower(content[numbered("term_ids", place)], content[numbered("term_weights", place)]))
        return ops.concatenate(parts, axis=-1)

    def freeze_all_but_residuals(self) -> None:
        """From now on only the linear maps beside the views learn: each view v of before becomes v + W v.

        Raises:
            ValueError: the encoder has none.
        """
        if not self.residuals:
            raise ValueError(
                "trainable: residual needs an encoder with linear maps beside its views, and this one has none. Set "
                "encoder.residual and train stage 1 again."
            )
        self.freeze_towers()
        for part in (self.image_head, self.text_head, self.gate):
            part.trainable = False
        for residual in self.residuals.values():
            residual.trainable = True

    def freeze_towers(self, top: int = 0) -> None:
        """From now on only the projection heads and the gate learn; with `top`, so many last blocks of the towers too.

        Raises:
            ValueError: no tower has transformer blocks, or one has fewer.
        """
        towers = [tower for tower in (self.image_tower, self.text_tower) if tower is not None]
        with_blocks = [tower for tower in towers if top and blocks(tower)]
        if top and not with_blocks:
            raise ValueError(
                f"trainable: top-{top} needs a tower of transformer blocks; the encoder has none. Use head or all."
            )
        for tower in towers:
            if tower in with_blocks:
                train_top(tower, top)
            else:
                tower.trainable = False

    @property
    def vector_dim(self) -> int:
        """Numbers in an item's vector."""
        return sum(self.config.embedding_dim if p == "joint" else sum(self._blocks(p)) for p in self.config.vector)

    def _blocks(self, part: str) -> list[int]:
        """Widths of what the towers say for a part of the vector: of the first so many of its modality's features."""
        if part == "image_features":
            return self.image_tower.blocks
        sentence = [self.text_tower.width] if self.text_tower is not None else []
        if part == "sentence_features":
            return sentence
        return [*sentence, *(width for tower in self.lexical_towers for width in tower.blocks)]

    def vector(self, joint: Any, features: Content) -> Any:
        """The item's vector [B, vector_dim] from its joint view and the towers' features."""
        if self.config.vector == ("joint",):
            return joint
        parts = []
        for part in self.config.vector:
            if part == "joint":
                parts.append(joint)
                continue
            modality, blocks = "image" if part == "image_features" else "text", self._blocks(part)
            present = ops.cast(features[f"{modality}_mask"], joint.dtype)[:, None]
            said = ops.cast(features[f"{modality}_features"][:, : sum(blocks)], joint.dtype)
            parts.append(normalise_blocks(said, blocks) * present)
        return normalise(ops.concatenate(parts, axis=-1))

    def embed(self, features: Content) -> Views:
        """Features → views; the part that is trained when the towers are frozen."""
        raw = [self.image_head(features["image_features"]), self.text_head(features["text_features"])]
        masks = [ops.cast(features[name], raw[0].dtype)[:, None] for name in ("image_mask", "text_mask")]
        image, text = (normalise(vector) * mask for vector, mask in zip(raw, masks, strict=True))
        # (B, 2, 1): how much each modality counts; one that is missing counts nothing
        gates = ops.cast(ops.stack([self.gate(image), self.gate(text)], axis=1), "float32")
        present = ops.stack(masks, axis=1)
        weights = ops.cast(ops.softmax(ops.where(present > 0, gates, -1e9), axis=1), present.dtype) * present
        joint = normalise(ops.sum(weights * ops.stack([image, text], axis=1), axis=1))
        views = {"image": image, "text": text, "joint": joint}
        return {**views, **{name: normalise(views[name] + turn(views[name])) for name, turn in self.residuals.items()}}

    def call(self, content: Content) -> Views:
        return self.views(self.features(content))

    def views(self, features: Content) -> Views:
        """Features → views and the item's vector; all that is asked of an encoder, once the towers have spoken."""
        views = self.embed(features)
        return {**views, "vector": self.vector(views["joint"], features)}

    def fill(self, tables: Sequence[np.ndarray]) -> None:
        """Sets what the lexical towers know, from `TextReader.fit`; it is not trained."""
        for tower, table in zip(self.lexical_towers, tables, strict=True):
            tower.fill(table)

    def save_to(self, folder: Path, reader: TextReader) -> None:
        """Writes settings, vocabulary and weights into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(to_mapping(self.config), indent=2))
        reader.save_to(folder)
        self.save_weights(folder / "encoder.weights.h5")

    @classmethod
    def load_from(cls, folder: Path) -> tuple[ItemEncoder, TextReader]:
        """The encoder that `save_to` wrote, and what its towers for words read.

        Raises:
            FileNotFoundError: `folder` holds no encoder.
        """
        config = from_mapping(EncoderConfig, json.loads((folder / "encoder.json").read_text()))
        reader = TextReader.load_from(folder, config)
        encoder = cls(config, reader)
        encoder.build()
        encoder.load_weights(folder / "encoder.weights.h5")
        return encoder, reader
