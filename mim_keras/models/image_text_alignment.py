"""Stage 1, pre-training: each image is aligned with its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from mim_keras.config import PretrainConfig
from mim_keras.layers.base import default_dtype
from mim_keras.losses import CLIPLoss, SigLIPLoss
from mim_keras.losses.temperature import add_log_logit_scale, alignment_logits
from mim_keras.models.base import StageModel
from mim_keras.models.item_encoder import Content, ItemEncoder, Views
from mim_keras.ops.distribution import all_gather


@keras.saving.register_keras_serializable("mim")
class ImageTextAlignment(StageModel):
    """L = L_align + weight · CE(category), over an `ItemEncoder`.

    Trains on the encoder's inputs, or on features of its towers (`ItemEncoder.towers`), with multi-hot categories
    [B, num_categories] as labels where there are any.  The temperature is learned, and does not fall below .01.

    Args:
        encoder: Trained in place.
        config: Loss, temperature, augmentation, and the weight of the category head.
        num_categories: Columns of the labels; 0: no category head.

    Returns:
        The encoder's views, and `category` logits [B, num_categories] where there is a category head.

    Example:
        >>> import numpy as np
        >>> from mim_keras.config import preset
        >>> from mim_keras.models import ImageTextAlignment, ItemEncoder
        >>> from mim_keras.preprocessing.content import ContentPreprocessor
        >>> preprocessor, _ = ContentPreprocessor.fit(preset("tiny").encoder, ["red mug", "blue lamp"])
        >>> encoder = ItemEncoder.from_settings(preset("tiny").encoder, preprocessor)
        >>> model = ImageTextAlignment(encoder, preset("tiny").pretrain)
        >>> content = preprocessor([b"", b""], ["red mug", "blue lamp"], ["", ""])
        >>> model.predict(content, verbose=0)["text"].shape
        (2, 16)

    Source: modal alignment of MIM (2502.00321), with the losses of CLIP (2103.00020) and SigLIP (2303.15343).
    """

    primary_output = "category"
    config_names = ("num_categories",)
    config_parts = ("encoder",)
    config_settings = {"config": PretrainConfig}

    def __init__(self, encoder: ItemEncoder, config: PretrainConfig, num_categories: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder, self.config, self.num_categories = encoder, config, num_categories
        with default_dtype(self.dtype_policy):
            self._make_layers()
        self.build_from_signature()

    def _make_layers(self) -> None:
        config, num_categories = self.config, self.num_categories
        has_head = num_categories > 0 and config.category_weight > 0
        self.category_head = keras.layers.Dense(num_categories, name="category_head") if has_head else None
        self.seed_generator = keras.random.SeedGenerator()
        self.augmentations: list[keras.layers.Layer] = []
        if strength := config.augmentation_strength:
            self.augmentations = [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomTranslation(strength, strength, fill_mode="nearest"),
                keras.layers.RandomBrightness(strength, value_range=(0.0, 1.0)),
            ]

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.log_logit_scale = add_log_logit_scale(self, "log_logit_scale", self.config.temperature)
        self.bias = None
        if self.config.loss == "sigmoid":
            self.bias = self.add_weight(shape=(), initializer=keras.initializers.Constant(-10.0), name="bias")
        if self.category_head is not None:
            self.category_head.build((None, self.encoder.embedding_dim))
        self.built = True

    def call(self, content: Content, training: bool = False) -> Views:
        if "image_features" in content or "text_features" in content:
            views = dict(self.encoder.projection(content))
        else:
            views = dict(self.encoder(self._augment(content) if training else content, training=training))
        if self.category_head is not None:
            views["category"] = self.category_head(views["joint"])
        return views

    def _augment(self, content: Content) -> Content:
        """The content with images a little different, and some tokens and n-grams masked."""
        augmented = dict(content)
        for augmentation in self.augmentations if "image" in content else ():
            augmented["image"] = augmentation(augmented["image"], training=True)
        if rate := self.config.token_masking:
            if "token_mask" in content:
                mask = ops.cast(content["token_mask"], "bool")
                is_first = ops.arange(ops.shape(mask)[1])[None, :] == 0  # a text keeps at least one token
                keep = ops.logical_or(self._keep_mask(mask, rate), is_first)
                augmented["token_mask"] = ops.logical_and(mask, keep)
            for name in (name for name in content if name.startswith("term_weights")):
                augmented[name] = content[name] * ops.cast(self._keep_mask(content[name], rate), content[name].dtype)
        return augmented

    def _keep_mask(self, like: Any, rate: float) -> Any:
        return keras.random.uniform(ops.shape(like), seed=self.seed_generator) >= rate

    def default_losses(self) -> dict[str, Any]:
        losses = {"alignment": SigLIPLoss() if self.config.loss == "sigmoid" else CLIPLoss()}
        if self.category_head is not None:
            options = {"from_logits": True, "reduction": "mean_with_sample_weight"}
            losses["category"] = keras.losses.CategoricalCrossentropy(**options)
        return losses

    def default_loss_weights(self) -> dict[str, float]:
        weights = {"alignment": 1.0, "category": self.config.category_weight}
        return {name: weights[name] for name in self.default_losses()}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        # Of all replicas, so that an image is contrasted with the texts of the global batch.
        pair_mask = all_gather(ops.cast(x["image_mask"] * x["text_mask"], "float32"))
        labels, outputs = {"alignment": pair_mask}, {"alignment": self._alignment_logits(y_pred)}
        weights = None if sample_weight is None else {"alignment": all_gather(sample_weight)}
        if y is not None and not self.num_categories and len(y.shape) > 1 and y.shape[-1]:
            raise ValueError(
                "ImageTextAlignment without categories takes no labels; received labels. Make the model with "
                "num_categories, the width of the labels, or fit it without."
            )
        if self.category_head is not None:
            if y is None:
                raise ValueError(
                    "ImageTextAlignment with a category head needs multi-hot categories as labels; received None. Give "
                    "them, or set pretrain.category_weight to 0."
                )
            y = self._categories(y)
            total = ops.maximum(ops.sum(y, axis=-1, keepdims=True), 1.0)
            labels["category"], outputs["category"] = y / total, ops.cast(y_pred["category"], "float32")
            if weights is not None:
                weights["category"] = sample_weight
        return super().compute_loss(x, labels, outputs, weights, training)

    def _alignment_logits(self, views: Views) -> Any:
        logits = alignment_logits(views["image"], views["text"], self.log_logit_scale)
        return logits if self.bias is None else logits + ops.cast(self.bias, "float32")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        if self.category_head is None:
            return self.get_metrics_result()
        return super().compute_metrics(
            x, {"category": self._categories(y)}, {"category": y_pred["category"]}, sample_weight
        )

    def _categories(self, y: Any) -> Any:
        """Multi-hot labels as float32, from an array or a mapping."""
        labels = ops.cast(y["category"] if isinstance(y, Mapping) else y, "float32")
        if tuple(labels.shape[1:]) != (self.num_categories,):
            raise ValueError(
                f"labels are multi-hot categories [batch, {self.num_categories}]; received {tuple(labels.shape)}. "
                "Give one column a category."
            )
        return labels

    def input_signature(self) -> Any:
        return {
            name: keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=name)
            for name, tensor in self.encoder.input.items()
        }
