"""Stage 1, pre-training: adapts the encoder to the catalogue by aligning each picture with its words."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mim_keras.config import PretrainConfig
from mim_keras.contrast.info_nce import alignment_loss, sigmoid_alignment_loss
from mim_keras.contrast.space import gather_from_replicas
from mim_keras.encoders.item_encoder import Content, ItemEncoder, Views
from mim_keras.training.replicas import share_of
from mim_keras.training.stage_model import StageModel


class Pretraining(StageModel):
    """L_pre = L_align + weight · CE(category), over an `ItemEncoder`.

    Args:
        encoder: Trained in place.
        config: Which loss and temperature, what is changed in training, and the category head's weight.
        categories: Number of categories; 0 for none.

    Trains on `Content`, or on what `ItemEncoder.features` makes of it, with, where there are categories, `category`
    [B, categories] (multi-hot, float).
    The temperature is learned; it starts at `config.temperature` and never falls below 0.01.
    """

    def __init__(self, encoder: ItemEncoder, config: PretrainConfig, categories: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder, self.config = encoder, config
        self.category_head = keras.layers.Dense(categories) if categories and config.category_weight else None
        self.log_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(math.log(1 / config.temperature)), name="log_scale"
        )
        self.bias = None
        if config.loss == "sigmoid":
            self.bias = self.add_weight(shape=(), initializer=keras.initializers.Constant(-10.0), name="bias")
        self.chance = keras.random.SeedGenerator()
        self.changes: list[keras.layers.Layer] = []
        if config.augment:
            self.changes = [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomTranslation(config.augment, config.augment, fill_mode="nearest"),
                keras.layers.RandomBrightness(config.augment, value_range=(0.0, 1.0)),
            ]
        self.align_tracker = keras.metrics.Mean("align")

    def call(self, content: Content, training: bool = False) -> Views:
        if "image_features" in content:
            views = self.encoder.embed(content)
        else:
            views = self.encoder(self._changed(content) if training else content)
        if self.category_head is not None:
            views["category"] = self.category_head(views["joint"])
        return views

    def _changed(self, content: Content) -> Content:
        """The content with pictures a little different, and with some of the words hidden."""
        changed = dict(content)
        for change in self.changes:
            changed["image"] = change(changed["image"], training=True)
        if rate := self.config.token_masking:
            if "token_mask" in content:
                first = ops.arange(ops.shape(content["token_mask"])[1])[None, :] == 0  # a text never loses all
                changed["token_mask"] = content["token_mask"] & (self._stays(content["token_mask"], rate) | first)
            for name in (name for name in content if name.startswith("term_weights")):
                changed[name] = content[name] * ops.cast(self._stays(content[name], rate), content[name].dtype)
        return changed

    def _stays(self, like: Any, rate: float) -> Any:
        return keras.random.uniform(ops.shape(like), seed=self.chance) >= rate

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        both = x["image_mask"] * x["text_mask"]
        # Of all replicas, so that a picture is held against the words of the whole batch.
        image, text, both = (gather_from_replicas(values) for values in (y_pred["image"], y_pred["text"], both))
        scale = ops.exp(ops.minimum(self.log_scale, math.log(100.0)))
        if self.bias is None:
            loss = alignment_loss(image, text, both, scale)
        else:
            loss = sigmoid_alignment_loss(image, text, both, scale, self.bias)
        self.align_tracker.update_state(loss)
        if self.category_head is not None:
            target = x["category"] / ops.maximum(ops.sum(x["category"], axis=-1, keepdims=True), 1.0)
            guessed = ops.log_softmax(ops.cast(y_pred["category"], "float32"))
            cross_entropy = -ops.sum(target * guessed, axis=-1)
            loss = loss + self.config.category_weight * ops.mean(cross_entropy)
        return share_of(loss)
