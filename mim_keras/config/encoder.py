"""Settings of the item encoder: towers for words and pictures, projection heads, gated fusion."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mim_keras.config.mapping import require


@dataclass(frozen=True)
class TextTowerConfig:
    """A BERT-shaped text tower from scratch, or any keras-hub text backbone by `preset`."""

    preset: str | None = None  # a keras-hub preset name or a local folder; None: from scratch
    vocabulary_size: int = 8000  # word pieces made from the catalogue, when from scratch
    max_tokens: int = 32
    hidden_dim: int = 64
    layers: int = 1  # 0 without `preset`: no transformer, the lexical tower reads alone
    heads: int = 4

    @property
    def is_on(self) -> bool:
        """Whether there is a transformer."""
        return bool(self.preset) or self.layers > 0

    def __post_init__(self) -> None:
        require(self.layers >= 0, "text.layers is 0 or more", self.layers, "Raise it.")
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4", self.max_tokens, "Raise it.")
        require(self.heads >= 1, "text.heads must be at least 1", self.heads, "Raise it.")
        require(
            self.hidden_dim % self.heads == 0,
            "text.hidden_dim must be a multiple of text.heads",
            (self.hidden_dim, self.heads),
            "Change one of them.",
        )


@dataclass(frozen=True)
class LexicalConfig:
    """Words and pairs of words, or runs of letters, placed by latent semantic analysis of the catalogue."""

    terms: int = 0  # the most that are known, 40,000 for long texts; 0: no lexical tower
    min_count: int = 3  # texts that a term must occur in
    max_terms: int = 512  # that are read of one text
    width: int = 512
    tags: int = 8192  # the most words with a # before them that are known; 0: such words are left out
    tag_width: int = 256  # of a field of tags with more than so many: it is analysed like words; else a feature a tag
    of: str = "all"  # what is read: all | title | line N of the text, from 1
    letters: bool = False  # runs of two to four letters, in the place of words and pairs of words

    @property
    def line(self) -> int | None:
        """The line that is read of title and text, 0 for the title; None for all."""
        return None if self.of == "all" else 0 if self.of == "title" else int(self.of.removeprefix("line "))

    @property
    def is_on(self) -> bool:
        """Whether there is a lexical tower."""
        return self.terms > 0

    def __post_init__(self) -> None:
        require(self.terms >= 0, "lexical.terms is 0 or more", self.terms, "40000 suits long texts.")
        known = self.of in ("all", "title") or re.fullmatch(r"line [1-9]\d*", self.of)
        require(bool(known), "lexical.of is all, title or line N", self.of, "e.g. line 1")
        require(self.tags >= 0, "lexical.tags is 0 or more", self.tags, "0 leaves them out.")
        for name in ("min_count", "max_terms", "width", "tag_width"):
            value = getattr(self, name)
            require(value >= 1, f"lexical.{name} must be at least 1", value, "Raise it.")


@dataclass(frozen=True)
class ImageTowerConfig:
    """A small convolutional image tower from scratch, or any keras-hub backbone that reads pictures by `preset`."""

    preset: str | None = (
        None  # a keras-hub preset name or a local folder: ViT, DINOv2, CLIP, SigLIP; None: from scratch
    )
    size: int = 48  # pixels a side; pictures are resized to a square
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each halving stage; none: no convolutions, colours alone
    colours: bool = False  # also how often each colour occurs

    def __post_init__(self) -> None:
        require(self.size >= 8, "image.size must be at least 8", self.size, "Raise it.")
        require(
            bool(self.preset or self.widths or self.colours),
            "a picture is read by image.preset, image.widths or image.colours",
            self.widths,
            "Set one of them.",
        )
        require(
            bool(self.preset) or self.size % 2 ** len(self.widths) == 0,
            "image.size must be divisible by 2 for each of image.widths",
            (self.size, self.widths),
            "Use a multiple of 16 or fewer widths.",
        )


VECTOR_PARTS = ("joint", "sentence_features", "text_features", "image_features")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the item encoder: towers for words and pictures, projection heads, gated fusion."""

    embedding_dim: int = 64
    head_hidden: int = 0  # width of a small network beside each linear projection head; 0: none
    # What an item's vector is made of: the joint view, and beside it what towers say as it is: the one of sentences
    # (`text`), all that read words, the one of pictures.  The vector is as much wider.
    vector: tuple[str, ...] = ("joint",)  # joint | sentence_features | text_features | image_features
    residual: bool = False  # a linear map beside each view, zero until csft.trainable: residual trains it alone
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    lexical: LexicalConfig = field(default_factory=LexicalConfig)
    lexical_views: tuple[LexicalConfig, ...] = ()  # further towers: the same content seen in other ways
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)

    @property
    def lexicals(self) -> tuple[LexicalConfig, ...]:
        """Of all lexical towers."""
        return (self.lexical, *self.lexical_views) if self.lexical.is_on else ()

    @property
    def is_drawn(self) -> bool:
        """Whether a tower begins with weights drawn at random."""
        return (self.text.is_on and not self.text.preset) or (bool(self.image.widths) and not self.image.preset)

    def __post_init__(self) -> None:
        require(self.embedding_dim >= 4, "embedding_dim must be at least 4", self.embedding_dim, "Raise it.")
        require(self.head_hidden >= 0, "head_hidden is 0 or more", self.head_hidden, "0 leaves the network out.")
        require(
            self.lexical.is_on or not self.lexical_views,
            "encoder.lexical_views stand beside encoder.lexical, which is off",
            len(self.lexical_views),
            "Set lexical.terms.",
        )
        for view in self.lexical_views:
            require(view.is_on, "a lexical view needs terms", view.terms, "20000 suits most.")
        require(
            bool(self.vector) and set(self.vector) <= set(VECTOR_PARTS),
            f"encoder.vector is some of {VECTOR_PARTS}",
            self.vector,
            "e.g. [joint, text_features]",
        )
        require(
            self.text.is_on or "sentence_features" not in self.vector,
            "sentence_features in encoder.vector are what encoder.text says, which is off",
            self.vector,
            "Set text.preset or text.layers, or take text_features.",
        )
        require(
            self.text.is_on or self.lexical.is_on,
            "one of text.layers, text.preset and lexical.terms must be set, for something must read the words",
            (self.text.layers, self.text.preset, self.lexical.terms),
            "Set text.layers to 1 or lexical.terms to 40000.",
        )
