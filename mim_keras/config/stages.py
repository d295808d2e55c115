"""Settings of the three stages, and of all of them with the encoder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mim_keras.config.encoder import EncoderConfig
from mim_keras.config.mapping import require
from mim_keras.config.training import TrainingConfig

LEAST = 0.01  # a learned temperature goes no lower


def _trains_all_epochs(stage: str, training: TrainingConfig) -> None:
    require(
        training.patience == 0,
        f"{stage}.training.patience must be 0: what stops early is the ranker, by its clicks on validation",
        training.patience,
        "Lower the epochs, or set ciubm.training.patience.",
    )


@dataclass(frozen=True)
class PretrainConfig:
    """Stage 1: image-text alignment on the catalogue."""

    loss: str = "softmax"  # softmax (InfoNCE both ways, as CLIP) | sigmoid (a yes or no for each pair, as SigLIP)
    temperature: float = 0.07  # where the learnable temperature starts
    augment: float = (
        0.0  # how far pictures are moved, and brightened or dimmed, in training; 0.1 is mild, 0 is not at all
    )
    token_masking: float = 0.0  # chance that a token, or a term, is hidden in training
    category_weight: float = 0.1  # weight of the category head's cross-entropy, 0 to leave it out
    # all | top-N (the towers' last N blocks) | head (frozen towers, whose features are computed once: pretrained ones
    # on a CPU)
    trainable: str = "all"
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=20, batch_size=128))

    @property
    def frozen_towers(self) -> bool:
        """Whether the towers' features stay as they are."""
        return self.trainable == "head"

    @property
    def top_blocks(self) -> int:
        """How many of the towers' last blocks learn where `trainable` is top-N; else 0."""
        return _top_blocks(self.trainable)

    def __post_init__(self) -> None:
        _trains_all_epochs("pretrain", self.training)
        losses = ("softmax", "sigmoid")
        require(self.loss in losses, f"pretrain.loss is one of {losses}", self.loss, "Choose one.")
        for name in ("augment", "token_masking"):
            require(0 <= getattr(self, name) < 1, f"pretrain.{name} is in [0, 1)", getattr(self, name), "0.1 is mild.")
        require(self.temperature > LEAST, f"pretrain.temperature is above {LEAST}", self.temperature, "0.07 is usual.")
        known_parts = self.trainable in ("all", "head") or self.top_blocks > 0
        require(known_parts, "pretrain.trainable is all, top-N or head", self.trainable, "e.g. top-2")
        require(
            not self.frozen_towers or not (self.augment or self.token_masking),
            "pretrain.augment and pretrain.token_masking change what towers read, and frozen ones read it once",
            (self.augment, self.token_masking),
            "Set both to 0, or pretrain.trainable to all.",
        )
        require(
            self.category_weight >= 0, "pretrain.category_weight must not be negative", self.category_weight, "0..0.2."
        )


def _top_blocks(trainable: str) -> int:
    found = re.fullmatch(r"top-([1-9]\d*)", trainable)
    return int(found[1]) if found else 0


VIEWS = ("image", "text", "joint")
POOLS = ("batch", "space", "time", "hard")


@dataclass(frozen=True)
class ContrastTerm:
    """One level of stage 2's contrast."""

    query: str = "joint"  # view of the query: image, text or joint
    item: str = "joint"  # view of the item
    pools: tuple[str, ...] = (
        "batch",
    )  # of negatives: batch, space (all replicas), time (queue), hard (the pair's own)
    dimension: int = 0  # only the first so many dimensions; 0: all
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("query", "item"):
            value = getattr(self, name)
            require(value in VIEWS, f"a term's {name} is one of {VIEWS}", value, "Choose one.")
        known = bool(self.pools) and set(self.pools) <= set(POOLS)
        require(known, f"a term's pools are some of {POOLS}", self.pools, "e.g. [batch, time]")
        require(self.dimension >= 0, "a term's dimension is 0 or more", self.dimension, "0 takes all.")
        require(self.weight > 0, "a term's weight is positive", self.weight, "Leave the term out instead.")


SIGNALS = ("click", "cart", "order")  # what a query led to, the weakest first

LEVELS: dict[str, tuple[ContrastTerm, ...]] = {
    "one": (ContrastTerm(pools=("batch", "time")),),
    # What "multi-level" may mean: by modality, by pool of negatives, by nested dimension.
    "modality": (
        ContrastTerm(pools=("batch", "time")),
        ContrastTerm("image", "image", weight=0.5),
        ContrastTerm("text", "text", weight=0.5),
        ContrastTerm("image", "text", weight=0.5),
    ),
    "pools": (ContrastTerm(pools=("hard",)), ContrastTerm(pools=("batch",), weight=0.3)),
    "dimension": (
        ContrastTerm(pools=("batch", "time")),
        ContrastTerm(pools=("batch", "time"), dimension=32, weight=0.5),
        ContrastTerm(pools=("batch", "time"), dimension=16, weight=0.5),
    ),
}


@dataclass(frozen=True)
class CsftConfig:
    """Stage 2: contrastive fine-tuning on pairs."""

    levels: str = "one"  # the terms by name: one | modality | pools | dimension
    terms: tuple[ContrastTerm, ...] = ()  # or one by one, instead of `levels`
    temperature: float = 0.1  # where the learned temperature starts
    queue_size: int = 1024  # time negatives: item vectors of earlier batches; 0: none
    momentum: float = 0.0  # of the encoder that makes what the queue holds (MoCo: .999); 0: the trained one itself
    hard: int = 4  # hard negatives of a pair in one step, drawn from those that PairGen found and these; 0: none
    same_category: int = 0  # so many hard negatives of a pair are other items of one of its item's categories
    # The weakest signal that makes a pair: click | cart | order.  What the same query led to by a weaker one alone
    # (clicked and not bought) is a hard negative of it.
    signal: str = "click"
    # Whatever a key (a user, an intent) is known to like stands against none of its queries; off: what the same step
    # shows alone.
    known_positives: bool = True
    log_q: bool = True  # correct in-batch negatives for popularity
    align_weight: float = 0.5  # weight of the stage-1 alignment loss that keeps the content
    # all | top-N (the towers' last N blocks) | head (frozen towers, whose features are computed once) | residual (all
    # is frozen but a linear map beside each view of stage 1, which begins at zero)
    trainable: str = "all"
    modality_dropout: float = 0.15  # chance to hide one modality of an item in training
    max_steps_per_epoch: int = 0  # 0: every pair, every epoch
    max_cosine: float = 0.9  # mean cosine of two items above which training stops, as collapsed; 1: never
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=3, batch_size=256))

    @property
    def frozen_towers(self) -> bool:
        """Whether the towers' features stay as they are."""
        return self.trainable in ("head", "residual")

    @property
    def top_blocks(self) -> int:
        """How many of the towers' last blocks learn where `trainable` is top-N; else 0."""
        return _top_blocks(self.trainable)

    @property
    def all_terms(self) -> tuple[ContrastTerm, ...]:
        """The terms of the loss."""
        return self.terms or LEVELS[self.levels]

    def __post_init__(self) -> None:
        require(self.levels in LEVELS, f"csft.levels is one of {tuple(LEVELS)}", self.levels, "Choose one.")
        _trains_all_epochs("csft", self.training)
        require(self.signal in SIGNALS, f"csft.signal is one of {SIGNALS}", self.signal, "Choose one.")
        require(self.temperature > LEAST, f"csft.temperature is above {LEAST}", self.temperature, "0.1 is usual.")
        require(self.queue_size >= 0, "csft.queue_size must not be negative", self.queue_size, "0 switches it off.")
        require(0 < self.max_cosine <= 1, "csft.max_cosine is in (0, 1]", self.max_cosine, "0.9 is usual.")
        for name in ("hard", "same_category", "align_weight", "max_steps_per_epoch"):
            value = getattr(self, name)
            require(value >= 0, f"csft.{name} must not be negative", value, "0 switches it off.")
        pools = {pool for term in self.all_terms for pool in term.pools}
        require(
            self.hard > 0 or all(term.pools != ("hard",) for term in self.all_terms),
            "a term with hard negatives alone needs csft.hard",
            self.hard,
            "4 is usual; or choose other csft.levels.",
        )
        require(
            not self.same_category or ("hard" in pools and self.hard > 0),
            "csft.same_category makes hard negatives, and needs csft.hard and a term that has them among its pools",
            (self.same_category, self.hard, self.levels),
            "Set csft.levels to pools, say, or same_category to 0.",
        )
        require(
            not self.momentum or ("time" in pools and self.queue_size > 0),
            "csft.momentum makes what the queue holds, and needs one and a term with time negatives",
            (self.momentum, self.queue_size, self.levels),
            "Set csft.queue_size and such a term, or momentum to 0.",
        )
        require(
            self.queue_size > 0 or all(term.pools != ("time",) for term in self.all_terms),
            "a term with time negatives alone needs a queue",
            self.queue_size,
            "Set csft.queue_size, or add a pool.",
        )
        known_parts = self.trainable in ("all", "head", "residual") or self.top_blocks > 0
        require(known_parts, "csft.trainable is all, top-N, head or residual", self.trainable, "e.g. top-2")
        require(0 <= self.momentum < 1, "csft.momentum is in [0, 1)", self.momentum, "0.999 is usual.")
        require(
            0 <= self.modality_dropout < 1, "csft.modality_dropout is in [0, 1)", self.modality_dropout, "Lower it."
        )


@dataclass(frozen=True)
class CiubmConfig:
    """Stage 3: the ranker."""

    history_length: int = 50
    id_dim: int = 16  # of the embeddings of items and of users
    modal_dim: int = 32  # width to which the frozen vectors are compressed
    heads: int = 2  # of the fused (SA-TA) attention
    simtier_bins: int = 20
    hidden: tuple[int, ...] = (128, 64)
    cross_layers: int = 2
    dropout: float = 0.0  # of the hidden layers; under XLA on a CPU any dropout halves the speed
    id_dropout: float = 0.1  # chance that an item's id is hidden in training
    id_l2: float = 2e-4  # weight of the squared norms of the id tables; their rows need data to stay large
    # Weight of the squared length that a random vector is given by the map that compresses the frozen vectors; so it
    # means the same for narrow ones and wide ones.
    content_l2: float = 0.0
    auxiliary_weight: float = 0.1  # weight of the modal branch's own loss
    modal_epochs: int = 0  # the first so many epochs train the modal branch alone (MAKE); ids overfit sooner than it
    attention: bool = True  # attention of the target over the history, by ids and by content
    activation_unit: bool = False  # by ids with DIN's small network, instead of a scaled product
    modal: bool = True  # the target's own vector, what the history's vectors have in common, attention, SimTier
    simtier: bool = True  # histogram of likenesses
    fusion: bool = True  # SA-TA
    search: int = 0  # attention sees so many clicks of the history, those most like the target; 0: all of them
    ids: bool = True  # id embeddings of items and the user
    # Two rankers, one of a vector's first so many numbers and one of those behind them, and the mean of their logits;
    # 0: one ranker, of the whole vector.  In a run of the three stages it is encoder.embedding_dim.
    ensemble_at: int = 0
    ages: bool = True  # tell attention how long ago each click was
    rows_in_memory: int = 4_000_000  # training rows up to which all are kept as numbers; more are read each epoch
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=2, batch_size=1024, jit_compile=True, steps_per_execution=10)
    )

    @property
    def attends(self) -> int:
        """Heads of all attention that shares passes over the history."""
        modal = (self.attention + self.heads * self.fusion) * self.modal
        return modal + (self.ids and self.attention and not self.activation_unit)

    @property
    def tells_ages(self) -> bool:
        """Whether anything reads how long ago each click was."""
        return self.ages and self.attends > 0

    @property
    def compares_beforehand(self) -> bool:
        """Whether whole vectors of targets and clicks may be compared once, for all epochs."""
        return self.compares and not self.ensemble_at

    @property
    def compares(self) -> bool:
        """Whether a part needs the target's likeness to every click."""
        return self.modal and (self.attention or self.simtier or self.fusion or self.search > 0)

    def __post_init__(self) -> None:
        require(self.rows_in_memory >= 0, "ciubm.rows_in_memory is 0 or more", self.rows_in_memory, "0 keeps none.")
        for name in ("id_dim", "modal_dim", "heads", "simtier_bins"):
            require(getattr(self, name) >= 1, f"ciubm.{name} must be at least 1", getattr(self, name), "Raise it.")
        require(
            all(width >= 1 for width in self.hidden), "ciubm.hidden are widths from 1", self.hidden, "e.g. [128, 64]"
        )
        require(self.cross_layers >= 0, "ciubm.cross_layers is 0 or more", self.cross_layers, "0 leaves them out.")
        for name, beginning in (("id_l2", "0.0002"), ("content_l2", "0.01"), ("auxiliary_weight", "0.1")):
            value = getattr(self, name)
            require(value >= 0, f"ciubm.{name} is 0 or more", value, f"{beginning} is a beginning.")
        require(
            0 <= self.modal_epochs < self.training.epochs and (self.modal or not self.modal_epochs),
            "ciubm.modal_epochs is less than ciubm.training.epochs, and needs ciubm.modal",
            (self.modal_epochs, self.training.epochs, self.modal),
            "Lower it, or train longer.",
        )
        searches = self.modal and (self.attention or self.fusion)
        require(self.search >= 0, "ciubm.search is 0 or more", self.search, "0 looks at the whole history.")
        require(
            not self.search or searches,
            "ciubm.search looks by content for what attention shall see, and needs ciubm.modal and ciubm.attention "
            "or ciubm.fusion",
            self.search,
            "Switch these on, or set search to 0.",
        )
        require(
            self.ensemble_at >= 0 and (self.modal or not self.ensemble_at),
            "ciubm.ensemble_at is 0 or more, and needs ciubm.modal",
            (self.ensemble_at, self.modal),
            "encoder.embedding_dim, where encoder.vector begins with joint, is where the joint view ends.",
        )
        require(self.history_length >= 1, "ciubm.history_length must be at least 1", self.history_length, "Raise it.")
        require(
            self.id_dim % self.heads == 0,
            "ciubm.id_dim must be a multiple of ciubm.heads",
            (self.id_dim, self.heads),
            "",
        )
        for name in ("dropout", "id_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"ciubm.{name} is in [0, 1)", value, "Lower it.")
        require(self.modal or self.ids, "one of ciubm.modal and ciubm.ids must be on", (self.modal, self.ids), "")


# What switches content off.
IDS_ALONE: dict[str, Any] = {"modal": False, "fusion": False, "ensemble_at": 0}
# Models of others, made of the same parts, to be compared with.
COMPARISONS: dict[str, dict[str, Any]] = {
    "din": {**IDS_ALONE, "simtier": False, "activation_unit": True, "cross_layers": 0},
    # worth it with a history_length of hundreds
    "sim": {"fusion": False, "simtier": False, "search": 50, "ensemble_at": 0},
    "dcn": {**IDS_ALONE, "simtier": False, "attention": False},
}


@dataclass(frozen=True)
class StagesConfig:
    """The encoder and the three stages together."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    csft: CsftConfig = field(default_factory=CsftConfig)
    ciubm: CiubmConfig = field(default_factory=CiubmConfig)

    def __post_init__(self) -> None:
        require(
            self.csft.trainable != "residual" or self.encoder.residual,
            "csft.trainable: residual needs encoder.residual",
            self.encoder.residual,
            "Set encoder.residual to true.",
        )
        at, vector, width = self.ciubm.ensemble_at, self.encoder.vector, self.encoder.embedding_dim
        longest = max(term.dimension for term in self.csft.all_terms)
        require(
            longest <= width,
            "a term's dimension is at most encoder.embedding_dim",
            (longest, width),
            "Lower it, or set csft.terms.",
        )
        require(
            not at or (at == width and vector[0] == "joint" and len(vector) > 1),
            "ciubm.ensemble_at parts the joint view from what the towers say: it must be encoder.embedding_dim, and "
            "encoder.vector must begin with joint and go on",
            (at, width, vector),
            "Set encoder.vector to [joint, text_features], or ciubm.ensemble_at to 0.",
        )
