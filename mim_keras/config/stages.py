"""Settings of the three stages, and of all of them with the encoder."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mim_keras.config.encoder import EncoderConfig
from mim_keras.config.interests import Interest, attend, check_interests
from mim_keras.config.mapping import require, require_choices
from mim_keras.config.training import TrainingConfig

MIN_TEMPERATURE = 0.01  # learned temperatures are clipped here
TRAINABLE = "all, top-N, lora-R or head"


def _check_no_early_stopping(stage: str, training: TrainingConfig) -> None:
    rule = f"{stage}.training.patience must be 0: only the ranker stops early, on its validation GAUC"
    require(training.patience == 0, rule, training.patience, "Lower the epochs, or set ciubm.training.patience.")


def _number_in(trainable: str, prefix: str) -> int:
    found = re.fullmatch(rf"{prefix}-([1-9]\d*)", trainable)
    return int(found[1]) if found else 0


class _TrainableTowers:
    """Reads `trainable`, for the stages that train towers."""

    trainable: str

    @property
    def frozen_towers(self) -> bool:
        """Whether tower features stay constant, so that they are computed once."""
        return self.trainable in ("head", "residual")

    @property
    def unfreeze_top_blocks(self) -> int:
        """Number of top transformer blocks that are trained for `top-N`; else 0."""
        return _number_in(self.trainable, "top")

    @property
    def lora_rank(self) -> int:
        """Rank of the low-rank adapters for `lora-R`; else 0."""
        return _number_in(self.trainable, "lora")


@dataclass(frozen=True)
class PretrainConfig(_TrainableTowers):
    """Stage 1: image-text alignment on the catalogue."""

    loss: Literal["softmax", "sigmoid"] = "softmax"  # softmax: symmetric InfoNCE (CLIP); sigmoid: pairwise (SigLIP)
    temperature: float = 0.07  # initial value; it is learned
    augmentation_strength: float = 0.0  # of shifts and brightness of images in training; 0.1 is mild, 0 is off
    token_masking: float = 0.0  # probability that a token, or an n-gram, is masked in training
    category_weight: float = 0.1  # weight of the category head's cross-entropy; 0 leaves it out
    # all | top-N: the last N transformer blocks | lora-R: low-rank adapters of rank R in the attention layers |
    # head: frozen towers, whose features are computed once
    trainable: str = "all"
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=20, batch_size=128))

    def __post_init__(self) -> None:
        _check_no_early_stopping("pretrain", self.training)
        require_choices(self, "pretrain.")
        for name in ("augmentation_strength", "token_masking"):
            value = getattr(self, name)
            require(0 <= value < 1, f"pretrain.{name} is in [0, 1)", value, "0.1 is mild.")
        rule = f"pretrain.temperature must be above {MIN_TEMPERATURE}"
        require(self.temperature > MIN_TEMPERATURE, rule, self.temperature, "0.07 is usual.")
        known = self.trainable in ("all", "head") or self.unfreeze_top_blocks or self.lora_rank
        require(bool(known), f"pretrain.trainable is {TRAINABLE}", self.trainable, "e.g. top-2")
        changes = (self.augmentation_strength, self.token_masking)
        rule = "pretrain.augmentation_strength and pretrain.token_masking must be 0 where towers are frozen"
        require(not self.frozen_towers or not any(changes), rule, changes, "Set pretrain.trainable to all.")
        require(self.category_weight >= 0, "pretrain.category_weight must be 0 or more", self.category_weight, "0..0.2")


VIEWS = ("image", "text", "joint")
NEGATIVES = ("in_batch", "cross_replica", "queue", "hard")


@dataclass(frozen=True)
class InfoNCETerm:
    """One InfoNCE term of stage 2: a view of the query against a view of the item, over pools of negatives."""

    query: Literal["image", "text", "joint"] = "joint"  # view of the query
    item: Literal["image", "text", "joint"] = "joint"  # view of the item
    # in_batch: items of the other pairs | cross_replica: of the pairs of all replicas | queue: of earlier batches |
    # hard: hard negatives of the pair itself
    negatives: tuple[str, ...] = ("in_batch",)
    prefix_dim: int = 0  # dimensions that are compared, from the first (Matryoshka); 0: all
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_choices(self, "a term's ")
        known = bool(self.negatives) and set(self.negatives) <= set(NEGATIVES)
        require(known, f"a term's negatives are some of {NEGATIVES}", self.negatives, "e.g. [in_batch, queue]")
        require(self.prefix_dim >= 0, "a term's prefix_dim must be 0 or more", self.prefix_dim, "0 compares all.")
        require(self.weight > 0, "a term's weight must be positive", self.weight, "Leave the term out instead.")


SIGNALS = ("click", "cart", "order")  # what a query led to, the weakest first

LOSS_PRESETS: dict[str, tuple[InfoNCETerm, ...]] = {
    "single": (InfoNCETerm(negatives=("in_batch", "queue")),),
    # Three readings of "multi-level": by modality, by pool of negatives, by nested dimension.
    "modality": (
        InfoNCETerm(negatives=("in_batch", "queue")),
        InfoNCETerm("image", "image", weight=0.5),
        InfoNCETerm("text", "text", weight=0.5),
        InfoNCETerm("image", "text", weight=0.5),
    ),
    "negatives": (InfoNCETerm(negatives=("hard",)), InfoNCETerm(negatives=("in_batch",), weight=0.3)),
    "matryoshka": (
        InfoNCETerm(negatives=("in_batch", "queue")),
        InfoNCETerm(negatives=("in_batch", "queue"), prefix_dim=32, weight=0.5),
        InfoNCETerm(negatives=("in_batch", "queue"), prefix_dim=16, weight=0.5),
    ),
}


@dataclass(frozen=True)
class CsftConfig(_TrainableTowers):
    """Stage 2: contrastive fine-tuning on pairs."""

    loss_preset: Literal["single", "modality", "negatives", "matryoshka"] = "single"  # a named list of terms
    terms: tuple[InfoNCETerm, ...] = ()  # the terms; replaces `loss_preset`
    temperature: float = 0.1  # initial value; it is learned
    queue_size: int = 1024  # embeddings of earlier batches that are kept as negatives; 0: no queue
    momentum: float = 0.0  # of the momentum encoder that fills the queue (MoCo: .999); 0: the trained encoder fills it
    num_hard_negatives: int = 4  # hard negatives of a pair in one step, sampled from those it has; 0: none
    num_same_category_negatives: int = 0  # hard negatives added to a pair: other items of its item's category
    num_hardest_negatives: int = 0  # keep only the most similar shared negatives of each query; 0: all
    # The weakest signal that makes a pair: click | cart | order.  Items that the same query led to by a weaker signal
    # only (clicked and not ordered) are its hard negatives.
    min_signal: Literal["click", "cart", "order"] = "click"
    mask_known_positives: bool = True  # mask all known positives of a pair's key; False: those of the same step only
    log_q: bool = True  # correct shared negatives for popularity
    align_weight: float = 0.5  # weight of the stage-1 alignment loss, which keeps the content
    # all | top-N | lora-R | head: frozen towers, whose features are computed once | residual: all of stage 1 is frozen,
    # and a linear adapter beside each view is trained, which starts at zero
    trainable: str = "all"
    modality_dropout: float = 0.15  # probability that one modality of an item is masked in training
    max_steps_per_epoch: int = 0  # 0: every pair, every epoch
    collapse_threshold: float = 0.9  # mean cosine of two items above which training stops; 1: never
    # trainings after one that collapsed, each at a third of the learning rate and with twice the align_weight; if all
    # collapse, the encoder of stage 1 is kept
    collapse_retries: int = 2
    keep_if_better: bool = True  # keep the encoder of stage 1 where stage 2 finds fewer of the held-out pairs
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=3, batch_size=256))

    @property
    def all_terms(self) -> tuple[InfoNCETerm, ...]:
        """The terms of the loss."""
        return self.terms or LOSS_PRESETS[self.loss_preset]

    def milder(self) -> CsftConfig:
        """A third of the learning rate, and twice the weight of the alignment loss: against collapse."""
        training = replace(self.training, learning_rate=self.training.learning_rate / 3)
        return replace(self, training=training, align_weight=2 * self.align_weight)

    def uses(self, negatives: str) -> bool:
        """Whether a term has this pool of negatives."""
        return any(negatives in term.negatives for term in self.all_terms)

    def __post_init__(self) -> None:
        require_choices(self, "csft.")
        _check_no_early_stopping("csft", self.training)
        rule = f"csft.temperature must be above {MIN_TEMPERATURE}"
        require(self.temperature > MIN_TEMPERATURE, rule, self.temperature, "0.1 is usual.")
        threshold = self.collapse_threshold
        require(0 < threshold <= 1, "csft.collapse_threshold is in (0, 1]", threshold, "0.9 is usual.")
        counts = (
            "collapse_retries",
            "queue_size",
            "num_hard_negatives",
            "num_same_category_negatives",
            "num_hardest_negatives",
        )
        for name in (*counts, "align_weight", "max_steps_per_epoch"):
            value = getattr(self, name)
            require(value >= 0, f"csft.{name} must be 0 or more", value, "0 switches it off.")
        for name in ("momentum", "modality_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"csft.{name} is in [0, 1)", value, "0 switches it off.")
        known = self.trainable in ("all", "head", "residual") or self.unfreeze_top_blocks or self.lora_rank
        require(bool(known), f"csft.trainable is {TRAINABLE}, or residual", self.trainable, "e.g. top-2")
        self._check_negatives()

    def _check_negatives(self) -> None:
        only = [term.negatives[0] for term in self.all_terms if len(set(term.negatives)) == 1]
        hard, queue = self.num_hard_negatives, self.queue_size
        rule = "a term with hard negatives only needs csft.num_hard_negatives"
        require(hard > 0 or "hard" not in only, rule, hard, "4 is usual; or choose another csft.loss_preset.")
        rule = "a term with queue negatives only needs csft.queue_size"
        require(queue > 0 or "queue" not in only, rule, queue, "Set it, or add another pool of negatives.")
        batch, used = self.training.batch_size, queue > 0 and self.uses("queue")
        rule = "csft.queue_size must be at least csft.training.batch_size, since a step enqueues a whole batch"
        require(not used or queue >= batch, rule, (queue, batch), "Raise csft.queue_size, or set it to 0.")
        received = (self.num_same_category_negatives, hard, self.loss_preset)
        require(
            not self.num_same_category_negatives or (self.uses("hard") and hard > 0),
            "csft.num_same_category_negatives needs csft.num_hard_negatives and a term with hard negatives",
            received,
            "Set csft.loss_preset to negatives, or num_same_category_negatives to 0.",
        )
        require(
            not self.momentum or used,
            "csft.momentum needs csft.queue_size and a term with queue negatives",
            (self.momentum, queue, self.loss_preset),
            "Set csft.queue_size and such a term, or momentum to 0.",
        )


@dataclass(frozen=True)
class CiubmConfig:
    """Stage 3: the ranker."""

    history_length: int = 50  # latest clicks of a user that are read
    # what is read from a history: names of interests, or mappings with `name` and settings
    interests: tuple[Interest, ...] = (
        Interest("mean_pooling"),
        Interest("target_attention"),
        Interest("modal_attention"),
        Interest("semantic_target_attention", heads=2),
        Interest("sim_tier"),
    )
    use_ids: bool = True  # id embeddings of items and users
    use_content: bool = True  # content embeddings of items
    use_recency: bool = True  # attention reads the age of each behaviour
    search_top_k: int = 0  # attention reads only the behaviours most similar to the target; 0: all
    id_dim: int = 16  # of the id embeddings
    content_dim: int = 32  # of the projection of the frozen content embeddings
    hidden: tuple[int, ...] = (128, 64)  # units of the deep network's layers
    cross_layers: int = 2  # layers of the cross network; 0: none
    dropout: float = 0.0  # of the deep network; under XLA on a CPU any dropout halves the speed
    id_dropout: float = 0.1  # probability that the target's id is masked in training, so that content ranks it
    id_embedding_l2: float = 2e-4  # L2 regularisation of the id embeddings
    # How id embeddings are updated.  dense: by Adam, every row in every step, so that a step costs more the more users
    # and items there are; rowwise_adagrad, lazy_adam: only the rows that a batch uses, see `RowwiseAdam`
    id_embedding_update: Literal["dense", "rowwise_adagrad", "lazy_adam"] = "dense"
    # learning rate of such rows, times training.learning_rate; 0: 10 of rowwise_adagrad, 1 of lazy_adam
    id_embedding_learning_rate: float = 0.0
    # Tables of the id embeddings.  full: a row for each id; quotient_remainder, two_hash: the sum of two rows of small
    # tables, see `CompositionalEmbedding`, which a warm start cannot load
    item_id_table: Literal["full", "quotient_remainder", "two_hash"] = "full"
    user_id_table: Literal["full", "quotient_remainder", "two_hash"] = "full"  # the same of users
    item_id_table_rows: int = 0  # of a small table; 0: a tenth of the ids
    user_id_table_rows: int = 0  # the same of users
    content_projection_l2: float = 0.0  # of the content projection, divided by the width of the content embedding
    content_loss_weight: float = 0.1  # weight of the loss of the content head
    content_warmup_epochs: int = 0  # first epochs that train the content head alone (MAKE)
    # what is predicted: the click first, then further labels; in a run those of shop.yaml
    labels: tuple[str, ...] = ("clicked",)
    # how further labels are predicted.  independent: a head each; mmoe: experts that each label weighs by its own gate;
    # esmm: p(label) = p(click) · p(label | click), for labels that follow a click
    multi_label: Literal["independent", "esmm", "mmoe"] = "independent"
    experts: int = 4  # of mmoe
    label_loss_weights: dict[str, float] = field(default_factory=dict)  # by label; 1 where it is not named
    # Exponents of the final score, by which candidates are ranked: {ctr: 1, ordered: 0.5, price: 0.3} is
    # ctr · ordered^0.5 · price^0.3.  Names are outputs of the ranker, and numbers of items.  {}: the ctr
    final_score: dict[str, float] = field(default_factory=dict)
    # Fitted to the validation rows, and exported with the ranker for each label of which it lowers the calibration
    # error: none | platt, which keeps the order of candidates | isotonic
    calibration: Literal["none", "platt", "isotonic"] = "none"
    # share of the rows without a click that the log holds, where it was thinned; what is served is of the whole log
    negative_sampling_rate: float = 1.0
    # An ensemble of two rankers: one reads the first dimensions of the content embedding up to here, one the rest.
    # 0: one ranker.  In a run of the three stages it is encoder.embedding_dim.
    ensemble_split_dim: int = 0
    # rankers of these settings that start from different random numbers, and whose logits are averaged
    ensemble_size: int = 1
    max_rows_in_memory: int = 4_000_000  # more training rows than this are read from disk in every epoch
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=2, batch_size=1024, jit_compile=True, steps_per_execution=10)
    )

    def interest(self, name: str) -> Interest | None:
        """The settings of an interest; None where it is not among `interests`."""
        return next((interest for interest in self.interests if interest.name == name), None)

    @property
    def table_learning_rate(self) -> float:
        """Factor of the learning rate for id embeddings that are updated by rows."""
        return self.id_embedding_learning_rate or (10.0 if self.id_embedding_update == "rowwise_adagrad" else 1.0)

    @property
    def num_attention_heads(self) -> int:
        """Heads of all attention that shares the fused pass over the history."""
        return sum(interest.heads for interest in self.interests if interest.kind.attends)

    @property
    def reads_ages(self) -> bool:
        """Whether anything reads the ages of behaviours."""
        return self.use_recency and self.num_attention_heads > 0

    @property
    def needs_similarity(self) -> bool:
        """Whether an interest needs the cosine similarity of the target and each behaviour."""
        compared = ("modal_attention", "semantic_target_attention", "sim_tier")
        return any(self.interest(name) for name in compared) or self.search_top_k > 0

    @property
    def can_precompute_similarity(self) -> bool:
        """Whether the similarities can be computed once for all epochs."""
        return self.needs_similarity and not self.is_ensemble

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several rankers."""
        return self.ensemble_split_dim > 0 or self.ensemble_size > 1

    def without_content(self) -> CiubmConfig:
        """The same ranker on ids alone."""
        kept = tuple(interest for interest in self.interests if not interest.kind.reads_content)
        changes: dict[str, Any] = {"use_content": False, "search_top_k": 0, "ensemble_split_dim": 0}
        return replace(self, interests=kept, content_warmup_epochs=0, use_ids=True, **changes)

    def without_ids(self) -> CiubmConfig:
        """The same ranker on content alone."""
        kept = tuple(interest for interest in self.interests if not interest.kind.reads_ids)
        return replace(self._with_interests(kept), use_ids=False, use_content=True)

    def without_interest(self, name: str) -> CiubmConfig:
        """The same ranker without one interest."""
        return self._with_interests(tuple(interest for interest in self.interests if interest.name != name))

    def _with_interests(self, interests: tuple[Interest, ...]) -> CiubmConfig:
        """Without the search where no attention is left to read what it finds."""
        return replace(self, interests=interests, search_top_k=self.search_top_k if attend(interests) else 0)

    def __post_init__(self) -> None:
        interests = (Interest.from_plain(one, "each of ciubm.interests") for one in self.interests)
        object.__setattr__(self, "interests", tuple(interests))
        for name in ("history_length", "id_dim", "content_dim"):
            value = getattr(self, name)
            require(value >= 1, f"ciubm.{name} must be at least 1", value, "Raise it.")
        check_interests(self.interests, self.id_dim)
        require(all(units >= 1 for units in self.hidden), "ciubm.hidden are positive", self.hidden, "e.g. [128, 64]")
        losses = ("id_embedding_l2", "content_projection_l2", "content_loss_weight")
        for name in ("item_id_table_rows", "user_id_table_rows"):
            value, kind = getattr(self, name), getattr(self, name.removesuffix("_rows"))
            require(value >= 0, f"ciubm.{name} must be 0 or more", value, "0 is a tenth of the ids.")
            rule = f"ciubm.{name} needs ciubm.{name.removesuffix('_rows')} quotient_remainder or two_hash"
            require(not value or kind != "full", rule, (value, kind), "Set it to 0.")
        for name in ("max_rows_in_memory", "cross_layers", "search_top_k", "ensemble_split_dim", *losses):
            value = getattr(self, name)
            require(value >= 0, f"ciubm.{name} must be 0 or more", value, "0 switches it off.")
        rate = self.id_embedding_learning_rate
        require(rate >= 0, "ciubm.id_embedding_learning_rate must be 0 or more", rate, "1 is training.learning_rate.")
        ok = rate == 0 or self.id_embedding_update != "dense"
        rule = "ciubm.id_embedding_learning_rate needs ciubm.id_embedding_update rowwise_adagrad or lazy_adam"
        require(ok, rule, (rate, self.id_embedding_update), "Set it to 0.")
        require(self.ensemble_size >= 1, "ciubm.ensemble_size must be at least 1", self.ensemble_size, "1 is usual.")
        sizes = (self.ensemble_split_dim, self.ensemble_size)
        ok = not sizes[0] or sizes[1] == 1
        rule = "an ensemble of ciubm.ensemble_split_dim has one ranker for each part, and ciubm.ensemble_size is 1"
        require(ok, rule, sizes, "Set one of them.")
        for name in ("dropout", "id_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"ciubm.{name} is in [0, 1)", value, "Lower it.")
        self._check_labels()
        self._check_inputs()

    def _check_labels(self) -> None:
        require_choices(self, "ciubm.")
        labels, fix = self.labels, "e.g. [clicked, ordered]"
        require(labels[:1] == ("clicked",), "the first of ciubm.labels is clicked", labels, fix)
        require(len(set(labels)) == len(labels), "ciubm.labels are distinct", labels, "Remove one.")
        reserved = sorted({"ctr", "content_ctr", "final_score", "has_vector", "encoder_version"} & set(labels))
        require(not reserved, "ciubm.labels are not named as outputs", reserved, "Rename them.")
        # A member of an ensemble has outputs of the same names, `_` and its number behind.
        named = all(re.fullmatch(r"[A-Za-z]\w*", one, re.A) and not re.search(r"_\d+$", one) for one in labels)
        rule = "ciubm.labels are letters, digits and _, and do not end in _ and digits"
        require(named, rule, labels, "Rename them.")
        rate = self.negative_sampling_rate
        require(0 < rate <= 1, "ciubm.negative_sampling_rate is above 0 and at most 1", rate, "1: the log is whole.")
        require(self.experts >= 1, "ciubm.experts must be at least 1", self.experts, "4 is usual.")
        hidden = self.multi_label != "mmoe" or bool(self.hidden)
        require(hidden, "ciubm.multi_label mmoe needs ciubm.hidden", self.hidden, "e.g. [128, 64]")
        for name in ("label_loss_weights", "final_score"):
            values = getattr(self, name)
            numbers = all(type(value) in (int, float) and math.isfinite(value) for value in values.values())
            require(numbers, f"ciubm.{name} is a mapping of names to numbers", values, "e.g. {ordered: 0.5}")
        largest = max(map(abs, self.final_score.values()), default=0)
        require(largest <= 10, "exponents of ciubm.final_score are from -10 to 10", self.final_score, "Lower it.")
        unknown = sorted(set(self.label_loss_weights) - set(labels))
        known = f"It has {', '.join(labels)}."
        require(not unknown, "ciubm.label_loss_weights are of labels of the ranker", unknown, known)
        smallest = min(self.label_loss_weights.values(), default=0)
        require(smallest >= 0, "ciubm.label_loss_weights are 0 or more", smallest, "0 disables the loss of the label.")

    @property
    def label_outputs(self) -> dict[str, str]:
        """Label → the ranker's output that predicts it: `ctr` for the click, else the label's own name."""
        return {label: "ctr" if label == "clicked" else label for label in self.labels}

    def _check_inputs(self) -> None:
        inputs = (self.use_ids, self.use_content)
        require(any(inputs), "one of ciubm.use_ids and ciubm.use_content must be true", inputs, "Set one.")
        for attribute, switch in (("reads_ids", "use_ids"), ("reads_content", "use_content")):
            names = [interest.name for interest in self.interests if getattr(interest.kind, attribute)]
            rule = f"{', '.join(names)} in ciubm.interests need ciubm.{switch}"
            require(getattr(self, switch) or not names, rule, getattr(self, switch), "Remove them, or set it to true.")
        for name in ("search_top_k", "ensemble_split_dim", "content_warmup_epochs"):
            value = getattr(self, name)
            require(self.use_content or not value, f"ciubm.{name} needs ciubm.use_content", value, "Set it to 0.")
        rule = "ciubm.search_top_k selects what attention reads, and needs an attention among ciubm.interests"
        require(
            not self.search_top_k or attend(self.interests),
            rule,
            self.search_top_k,
            "Add one, or set search_top_k to 0.",
        )
        epochs = (self.content_warmup_epochs, self.training.epochs)
        rule = "ciubm.content_warmup_epochs is 0 or more, and below ciubm.training.epochs"
        require(0 <= epochs[0] < epochs[1], rule, epochs, "Lower it, or train longer.")


ONE_RANKER = {"ensemble_split_dim": 0, "ensemble_size": 1}
# Published models, as settings of the same ranker.
BASELINES: dict[str, dict[str, Any]] = {
    "din": {
        "interests": (Interest("mean_pooling"), Interest("din_attention")),
        "use_content": False,
        **ONE_RANKER,
        "cross_layers": 0,
    },
    # Pays with a history_length of hundreds.
    "sim": {
        "interests": (Interest("mean_pooling"), Interest("target_attention"), Interest("modal_attention")),
        "search_top_k": 50,
        **ONE_RANKER,
    },
    "dcn": {"interests": (Interest("mean_pooling"),), "use_content": False, **ONE_RANKER},
}


@dataclass(frozen=True)
class StagesConfig:
    """The encoder and the three stages together."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    csft: CsftConfig = field(default_factory=CsftConfig)
    ciubm: CiubmConfig = field(default_factory=CiubmConfig)

    def __post_init__(self) -> None:
        encoder, dim, parts = self.encoder, self.encoder.embedding_dim, self.encoder.item_embedding_parts
        require(
            self.csft.trainable != "residual" or encoder.residual_adapters,
            "csft.trainable: residual needs encoder.residual_adapters",
            encoder.residual_adapters,
            "Set encoder.residual_adapters to true.",
        )
        longest = max(term.prefix_dim for term in self.csft.all_terms)
        rule = "a term's prefix_dim is at most encoder.embedding_dim"
        require(longest <= dim, rule, (longest, dim), "Lower it, or set csft.terms.")
        split = self.ciubm.ensemble_split_dim
        require(
            not split or (split == dim and parts[0] == "joint" and len(parts) > 1),
            "ciubm.ensemble_split_dim separates the joint view from tower features: it must be encoder.embedding_dim, "
            "and encoder.item_embedding_parts must be joint and at least one more",
            (split, dim, parts),
            "Set encoder.item_embedding_parts to [joint, text_features], or ciubm.ensemble_split_dim to 0.",
        )
