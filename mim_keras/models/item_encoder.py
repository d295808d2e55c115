"""The item encoder: towers for images and text, projected into one space and fused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import EncoderConfig
from mim_keras.layers import GatedFusion, ProjectionHead, ResidualAdapter
from mim_keras.layers.base import ConfigurableModel, default_dtype
from mim_keras.layers.towers import EmbeddingTower, ImageTower, LSATower, TextTower
from mim_keras.layers.towers.pretrained import enable_lora, transformer_blocks, unfreeze_top_blocks
from mim_keras.ops.normalization import l2_normalize, l2_normalize_groups
from mim_keras.preprocessing.ngrams import lsa_group_dims
from mim_keras.preprocessing.text import suffixed

if TYPE_CHECKING:  # preprocessing runs in TensorFlow, the encoder on any backend
    from mim_keras.preprocessing.content import ContentPreprocessor

VIEWS = ("image", "text", "joint")
TOWERS = ("image_tower", "text_tower", "lsa_towers", "embedding_towers")
_CONFIG, _WEIGHTS = "encoder.json", "encoder.weights.h5"
Content = dict[str, Any]
Views = dict[str, Any]


@keras.saving.register_keras_serializable("mim")
class ItemEncoder(ConfigurableModel, keras.Model):
    """Content → views `image`, `text` and `joint` [B, embedding_dim], and the item `embedding` [B, item_embedding_dim].

    All are L2-normalised.  A missing modality is masked: its view is zero, and the fusion leaves it out.  An item with
    neither has a zero joint view and a zero embedding.

    The item embedding is what an embedding snapshot keeps and the ranker reads: the joint view, or several parts side
    by side.  Each part counts alike: the cosine of two embeddings is the mean of the cosines of their parts.

    A functional model of its inputs by name: `image` float [B, size, size, 3] in 0..1, `token_ids` int32 and
    `token_mask` bool [B, T], `term_ids` int32 and `term_weights` [B, K] (`term_ids_1`, … of further LSA towers),
    `embedding_COLUMN` [B, dim], as far as there are towers for them; `image_mask` and `text_mask` [B].  Two models
    inside it:

    * `towers`: content → features, `image_features`, `text_features` and the masks; constant while towers are frozen.
    * `projection`: features → views.

    Args:
        embedding_dim: Width of the views.
        image_tower, text_tower: `ImageTower`, `TextTower`; None: none.
        lsa_towers: `LSATower`s, parts of the text view.
        embedding_towers: `EmbeddingTower`s, each part of a view.
        head_hidden_dim: Units of the MLP beside each linear projection head; 0: no MLP.
        item_embedding_parts: Some of joint, sentence_features, text_features, image_features.
        residual_adapters: Whether each view has a `ResidualAdapter`, frozen at zero until `freeze_all_but_adapters`.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import EmbeddingTower
        >>> from mim_keras.models import ItemEncoder
        >>> encoder = ItemEncoder(8, embedding_towers=[EmbeddingTower(4, column="clip", modality="image")])
        >>> content = {"embedding_clip": np.eye(4)[:2], "image_mask": np.ones(2), "text_mask": np.zeros(2)}
        >>> {name: tuple(view.shape) for name, view in encoder(content).items()}
        {'image': (2, 8), 'text': (2, 8), 'joint': (2, 8), 'embedding': (2, 8)}

    Source: the encoder of MIM (2502.00321); CLIP's two towers (2103.00020).
    """

    config_names = ("embedding_dim", "head_hidden_dim", "item_embedding_parts", "residual_adapters")
    config_parts = TOWERS

    def __init__(
        self,
        embedding_dim: int,
        image_tower: ImageTower | None = None,
        text_tower: TextTower | None = None,
        lsa_towers: Sequence[LSATower] = (),
        embedding_towers: Sequence[EmbeddingTower] = (),
        head_hidden_dim: int = 0,
        item_embedding_parts: Sequence[str] = ("joint",),
        residual_adapters: bool = False,
        **kwargs: Any,
    ) -> None:
        self.embedding_dim, self.head_hidden_dim = embedding_dim, head_hidden_dim
        self.item_embedding_parts = tuple(item_embedding_parts)
        self.image_tower, self.text_tower = image_tower, text_tower
        self.lsa_towers, self.embedding_towers = list(lsa_towers), list(embedding_towers)
        self.residual_adapters = residual_adapters
        with default_dtype(kwargs.pop("dtype", None)):
            self.adapters = (
                {view: ResidualAdapter(name=f"{view}_adapter") for view in VIEWS} if residual_adapters else {}
            )
            for adapter in self.adapters.values():
                adapter.trainable = False
            inputs = self._content_inputs()
            self.towers = keras.Model(inputs, self._tower_outputs(inputs), name="towers")
            self.projection = self._projection()
            inputs = self._content_inputs()
            features = self.towers(inputs)
            views = self.projection(features)
            views["embedding"] = self.item_embedding(views["joint"], features)
            super().__init__(inputs=inputs, outputs=views, **kwargs)

    @classmethod
    def from_settings(
        cls, config: EncoderConfig, preprocessor: ContentPreprocessor, lsa_tables: Sequence[np.ndarray] = ()
    ) -> ItemEncoder:
        """A new encoder for what `preprocessor` reads; loads the weights of presets.

        Args:
            config: Settings.
            preprocessor: From `ContentPreprocessor.fit`.
            lsa_tables: Likewise.
        """
        text, lsa_towers = preprocessor.text, []
        for ngrams, settings in zip(text.ngrams, config.lsa_towers, strict=True):
            lsa_towers.append(LSATower(len(ngrams.terms), lsa_group_dims(ngrams.terms, settings)))
        text_tower = None
        if text.tokenizer is not None:
            text_tower = TextTower.from_settings(config.text, text.tokenizer.tokenizer.vocabulary_size())
        encoder = cls(
            config.embedding_dim,
            ImageTower.from_settings(config.image) if config.image.enabled else None,
            text_tower,
            lsa_towers,
            [EmbeddingTower.from_settings(tower) for tower in config.embeddings],
            config.head_hidden_dim,
            config.item_embedding_parts,
            config.residual_adapters,
        )
        for tower, table in zip(encoder.lsa_towers, lsa_tables, strict=False):
            tower.set_table(table)
        return encoder

    # -- the graph -----------------------------------------------------------------------------------------

    def _content_inputs(self) -> dict[str, Any]:
        inputs = {}
        if self.image_tower is not None:
            size = self.image_tower.image_size
            inputs["image"] = keras.Input((size, size, 3), name="image")
        if self.text_tower is not None:
            inputs["token_ids"] = keras.Input((None,), dtype="int32", name="token_ids")
            inputs["token_mask"] = keras.Input((None,), dtype="bool", name="token_mask")
        for index in range(len(self.lsa_towers)):
            ids, weights = suffixed("term_ids", index), suffixed("term_weights", index)
            inputs[ids] = keras.Input((None,), dtype="int32", name=ids)
            inputs[weights] = keras.Input((None,), name=weights)
        for tower in self.embedding_towers:
            inputs[tower.input_name] = keras.Input((tower.dim,), name=tower.input_name)
        return {**inputs, **{name: keras.Input((), name=name) for name in ("image_mask", "text_mask")}}

    def _towers_of(self, modality: str) -> list[Any]:
        """The towers of image or text, in the order of their features."""
        own = [self.image_tower] if modality == "image" else [self.text_tower, *self.lsa_towers]
        ready_made = [tower for tower in self.embedding_towers if tower.modality == modality]
        return [tower for tower in (*own, *ready_made) if tower is not None]

    def _tower_outputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        features = {"image": [], "text": []}  # type: dict[str, list[Any]]
        if self.image_tower is not None:
            features["image"].append(self.image_tower(inputs["image"]))
        if self.text_tower is not None:
            features["text"].append(self.text_tower(inputs["token_ids"], inputs["token_mask"]))
        for index, tower in enumerate(self.lsa_towers):
            ids, weights = suffixed("term_ids", index), suffixed("term_weights", index)
            features["text"].append(tower(inputs[ids], inputs[weights]))
        for tower in self.embedding_towers:
            features[tower.modality].append(tower(inputs[tower.input_name]))
        outputs = {"image_mask": inputs["image_mask"], "text_mask": inputs["text_mask"]}
        for modality, parts in features.items():
            if parts:
                outputs[f"{modality}_features"] = ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        return outputs

    def _projection(self) -> keras.Model:
        inputs = {name: keras.Input((), name=name) for name in ("image_mask", "text_mask")}
        views: Views = {}
        for modality in ("image", "text"):
            width, mask = sum(tower.output_dim for tower in self._towers_of(modality)), inputs[f"{modality}_mask"]
            if not width:
                views[modality] = ops.repeat(ops.zeros_like(mask)[:, None], self.embedding_dim, axis=1)
                continue
            name = f"{modality}_features"
            inputs[name] = keras.Input((width,), name=name)
            head = ProjectionHead(self.embedding_dim, self.head_hidden_dim, name=f"{modality}_head")
            projected = l2_normalize(head(inputs[name]))
            views[modality] = projected * ops.cast(mask, projected.dtype)[:, None]
        fusion = GatedFusion(name="fusion")
        views["joint"] = fusion(
            views["image"], views["text"], has_image=inputs["image_mask"], has_text=inputs["text_mask"]
        )
        views = {name: self.adapters[name](view) if self.adapters else view for name, view in views.items()}
        return keras.Model(inputs, views, name="projection")

    def _feature_groups(self, part: str) -> list[int]:
        """Widths of the groups of features of a part of the item embedding, the first ones of its modality."""
        if part == "sentence_features":
            return self.text_tower.feature_groups if self.text_tower is not None else []
        towers = self._towers_of(part.removesuffix("_features"))
        return [dim for tower in towers for dim in tower.feature_groups]

    @property
    def item_embedding_dim(self) -> int:
        """Width of the item embedding."""
        parts = self.item_embedding_parts
        return sum(self.embedding_dim if part == "joint" else sum(self._feature_groups(part)) for part in parts)

    def item_embedding(self, joint: Any, features: Content, parts: Sequence[str] | None = None) -> Any:
        """The item embedding [B, item_embedding_dim] of a joint view and tower features.

        Args:
            joint: [B, embedding_dim].
            features: Of `towers`.
            parts: Replaces `item_embedding_parts`.
        """
        parts = tuple(parts or self.item_embedding_parts)
        if parts == ("joint",):
            return joint
        columns = []
        for part in parts:
            if part == "joint":
                columns.append(joint)
                continue
            modality, groups = "image" if part == "image_features" else "text", self._feature_groups(part)
            mask = ops.cast(features[f"{modality}_mask"], joint.dtype)[:, None]
            own = ops.cast(features[f"{modality}_features"][:, : sum(groups)], joint.dtype)
            columns.append(l2_normalize_groups(own, groups) * mask)
        return l2_normalize(ops.concatenate(columns, axis=-1))

    def encode_features(self, features: Content) -> Views:
        """Views and item embedding of tower features, where these are known already."""
        views = dict(self.projection(features))
        return {**views, "embedding": self.item_embedding(views["joint"], features)}

    # -- what is trained -----------------------------------------------------------------------------------

    def freeze_towers(self, top_blocks: int = 0, lora_rank: int = 0) -> None:
        """Freezes the towers; the projection is trained.

        Args:
            top_blocks: Transformer blocks of each tower that are trained nevertheless, the last ones.
            lora_rank: Rank of low-rank adapters that are added to attention layers and trained; 0: none.

        Raises:
            ValueError: no tower has transformer blocks, or one has fewer.
        """
        towers = [tower for tower in (self.image_tower, self.text_tower) if tower is not None]
        with_blocks = [tower for tower in towers if (top_blocks or lora_rank) and transformer_blocks(tower)]
        if (top_blocks or lora_rank) and not with_blocks:
            wanted = f"top-{top_blocks}" if top_blocks else f"lora-{lora_rank}"
            raise ValueError(
                f"trainable: {wanted} needs a tower of transformer blocks; the encoder has none. Use head or all."
            )
        for tower in towers:
            if tower not in with_blocks:
                tower.trainable = False
            elif lora_rank:
                enable_lora(tower, lora_rank)
            else:
                unfreeze_top_blocks(tower, top_blocks)

    def freeze_all_but_adapters(self) -> None:
        """Freezes all but the residual adapters, so that each view v becomes v + W v.

        Raises:
            ValueError: the encoder has none.
        """
        if not self.adapters:
            raise ValueError(
                "trainable: residual needs an encoder with residual adapters; received one without. Set "
                "encoder.residual_adapters and train stage 1 again."
            )
        self.towers.trainable = False
        for layer in self.projection.layers:
            layer.trainable = layer in self.adapters.values()

    # -- saving --------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy), **self.own_config()}

    def save_to_preset(self, folder: Path) -> None:
        """Writes configuration and weights; the presets that towers came from are not needed to load it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(keras.saving.serialize_keras_object(self)))
        self.save_weights(folder / _WEIGHTS)

    @classmethod
    def from_preset(cls, folder: Path) -> ItemEncoder:
        """The encoder that `save_to_preset` wrote.

        Raises:
            FileNotFoundError: the folder holds none.
        """
        folder = Path(folder)
        encoder: ItemEncoder = keras.saving.deserialize_keras_object(json.loads((folder / _CONFIG).read_text()))
        encoder.load_weights(folder / _WEIGHTS)
        return encoder
