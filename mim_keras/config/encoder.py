"""Settings of the item encoder: towers for text, images and ready-made embeddings, projection heads, gated fusion."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from mim_keras.config.mapping import require, require_choices


@dataclass(frozen=True)
class TextTowerConfig:
    """A transformer over tokens: a BERT trained from scratch, or any keras-hub text backbone by `preset`."""

    preset: str | None = None  # a keras-hub preset name or a local folder; None: from scratch
    vocabulary_size: int = 8000  # WordPiece tokens learned from the catalogue, without a preset
    max_tokens: int = 32  # tokens of a text that are read
    hidden_dim: int = 64  # width of the transformer
    layers: int = 1  # 0 without `preset`: no transformer
    heads: int = 4  # attention heads of each layer

    @property
    def enabled(self) -> bool:
        """Whether there is a transformer."""
        return bool(self.preset) or self.layers > 0

    def __post_init__(self) -> None:
        require(self.layers >= 0, "text.layers must be 0 or more", self.layers, "Raise it.")
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4", self.max_tokens, "Raise it.")
        for name in ("heads", "hidden_dim", "vocabulary_size"):
            require(getattr(self, name) >= 1, f"text.{name} must be at least 1", getattr(self, name), "Raise it.")
        sizes = (self.hidden_dim, self.heads)
        rule = "text.hidden_dim must be a multiple of text.heads"
        require(self.hidden_dim % self.heads == 0, rule, sizes, "Change one of them.")


@dataclass(frozen=True)
class LSATowerConfig:
    """Latent semantic analysis of word unigrams and bigrams, or of character n-grams, fitted to the catalogue."""

    max_features: int = 0  # n-grams to keep; 40,000 suits long texts; 0: no LSA tower
    min_df: int = 3  # texts that an n-gram must occur in
    max_terms: int = 512  # n-grams read of one text
    output_dim: int = 512  # dimensions that the n-grams are reduced to
    max_tags: int = 8192  # `#field:value` tags to keep; 0 drops tags
    tag_dim: int = 256  # a field with more tags than this is reduced by LSA; else each tag is a feature
    field: str = "all"  # which text is read: all | title | line N of the text, from 1
    char_ngrams: bool = False  # character n-grams of 2 to 4 characters instead of words

    @property
    def line(self) -> int | None:
        """Index of the line that is read, 0 for the title; None for all lines."""
        return None if self.field == "all" else 0 if self.field == "title" else int(self.field.removeprefix("line "))

    @property
    def enabled(self) -> bool:
        """Whether there is such a tower."""
        return self.max_features > 0

    def __post_init__(self) -> None:
        require(self.max_features >= 0, "lsa.max_features must be 0 or more", self.max_features, "0 leaves it out.")
        known = self.field in ("all", "title") or re.fullmatch(r"line [1-9]\d*", self.field)
        require(bool(known), "lsa.field is all, title or line N", self.field, "e.g. line 1")
        require(self.max_tags >= 0, "lsa.max_tags must be 0 or more", self.max_tags, "0 drops tags.")
        for name in ("min_df", "max_terms", "output_dim", "tag_dim"):
            value = getattr(self, name)
            require(value >= 1, f"lsa.{name} must be at least 1", value, "Raise it.")


@dataclass(frozen=True)
class ImageTowerConfig:
    """A small convolutional tower trained from scratch, or any keras-hub image backbone by `preset`."""

    preset: str | None = None  # a keras-hub preset name or a local folder (ViT, DINOv2, CLIP, SigLIP); None: scratch
    image_size: int = 48  # pixels a side
    filters: tuple[int, ...] = (32, 64, 128)  # channels of each stride-2 convolution; (): no convolutions
    color_histogram: bool = False  # adds a histogram of colours

    @property
    def enabled(self) -> bool:
        """Whether there is an image tower."""
        return bool(self.preset or self.filters or self.color_histogram)

    def __post_init__(self) -> None:
        require(self.image_size >= 8, "image.image_size must be at least 8", self.image_size, "Raise it.")
        fits = bool(self.preset) or self.image_size % 2 ** len(self.filters) == 0
        rule = "image.image_size must be divisible by 2 for each of image.filters"
        require(fits, rule, (self.image_size, self.filters), "Use a multiple of 16 or fewer filters.")


@dataclass(frozen=True)
class EmbeddingTowerConfig:
    """A ready-made embedding of an item, computed elsewhere, as a tower."""

    name: str  # of the column that holds it
    dim: int
    modality: Literal["image", "text"] = "text"  # the view that it is a part of

    def __post_init__(self) -> None:
        valid = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name)
        require(bool(valid), "embeddings.name is letters, digits and _", self.name, "Rename the column.")
        require(self.dim >= 1, "embeddings.dim must be at least 1", self.dim, "Give the width of the embedding.")
        require_choices(self, "embeddings.")


EMBEDDING_PARTS = ("joint", "sentence_features", "text_features", "image_features")


@dataclass(frozen=True)
class EncoderConfig:
    """Towers, projection heads and gated fusion of the item encoder."""

    embedding_dim: int = 64  # dimensions of the joint embedding
    head_hidden_dim: int = 0  # width of an MLP beside each linear projection head; 0: no MLP
    # Parts of the item embedding: the joint view, and tower features that are concatenated to it: `sentence_features`
    # (the transformer), `text_features` (all text towers), `image_features` (all image towers).
    item_embedding_parts: tuple[str, ...] = ("joint",)
    residual_adapters: bool = False  # a linear map beside each view, zero until csft.trainable: residual trains it
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    lsa: LSATowerConfig = field(default_factory=LSATowerConfig)
    extra_lsa_towers: tuple[LSATowerConfig, ...] = ()  # further LSA towers, each of a part of the text
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    embeddings: tuple[EmbeddingTowerConfig, ...] = ()  # ready-made embeddings

    @property
    def lsa_towers(self) -> tuple[LSATowerConfig, ...]:
        """Settings of all LSA towers."""
        return (self.lsa, *self.extra_lsa_towers) if self.lsa.enabled else ()

    @property
    def has_random_init(self) -> bool:
        """Whether a tower starts from randomly initialised weights."""
        return (self.text.enabled and not self.text.preset) or (bool(self.image.filters) and not self.image.preset)

    def has_modality(self, modality: str) -> bool:
        """Whether any tower reads `image` or `text`."""
        own = self.image.enabled if modality == "image" else self.text.enabled or self.lsa.enabled
        return own or any(tower.modality == modality for tower in self.embeddings)

    def __post_init__(self) -> None:
        require(self.embedding_dim >= 4, "embedding_dim must be at least 4", self.embedding_dim, "Raise it.")
        require(self.head_hidden_dim >= 0, "head_hidden_dim must be 0 or more", self.head_hidden_dim, "0: no MLP.")
        extra = self.extra_lsa_towers
        rule = "encoder.extra_lsa_towers need encoder.lsa, which is off"
        require(self.lsa.enabled or not extra, rule, len(extra), "Set lsa.max_features.")
        for tower in extra:
            rule = "each of encoder.extra_lsa_towers needs max_features"
            require(tower.enabled, rule, tower.max_features, "20000 suits most texts.")
        parts = self.item_embedding_parts
        known = bool(parts) and set(parts) <= set(EMBEDDING_PARTS)
        rule = f"encoder.item_embedding_parts are some of {EMBEDDING_PARTS}"
        require(known, rule, parts, "e.g. [joint, text_features]")
        for part, present, fix in (
            ("sentence_features", self.text.enabled, "Set text.preset or text.layers, or use text_features."),
            ("text_features", self.has_modality("text"), "Set text.preset, text.layers or lsa.max_features."),
            ("image_features", self.has_modality("image"), "Set image.preset or image.filters."),
        ):
            rule = f"{part} in encoder.item_embedding_parts needs its tower, which is off"
            require(present or part not in parts, rule, parts, fix)
        names = [tower.name for tower in self.embeddings]
        require(len(set(names)) == len(names), "encoder.embeddings have distinct names", names, "Rename one.")
        require(
            self.has_modality("image") or self.has_modality("text"),
            "an encoder needs a tower: one of encoder.text, encoder.lsa, encoder.image and encoder.embeddings",
            "none",
            "Set text.layers to 1 or lsa.max_features to 40000.",
        )
