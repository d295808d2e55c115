"""Which variants are compared, each a change of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mim_keras.config import (
    ONE_RANKER,
    CiubmConfig,
    ConfigError,
    Interest,
    StagesConfig,
    from_mapping,
    preset,
    to_mapping,
)


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        says: What it is, for a reader.
        stages: Which stages train the encoder: 1, 2, 1+2, raw (neither), or none (neither, and the ranker reads no
            vector, so that the encoder is a tiny one).
        encoder, csft, ciubm: Settings that differ from the run's.
        ranker: Changes the ranker's settings after these.
    """

    says: str
    stages: str = "1+2"
    encoder: Mapping[str, Any] = field(default_factory=dict)
    csft: Mapping[str, Any] = field(default_factory=dict)
    ciubm: Mapping[str, Any] = field(default_factory=dict)
    ranker: Callable[[CiubmConfig], CiubmConfig] = lambda config: config

    @property
    def has_encoder(self) -> bool:
        """Whether the ranker reads what stages 1 and 2 make."""
        return self.stages != "none"

    def settings(self, base: StagesConfig, seed: int) -> StagesConfig:
        """The run's settings with this variant's changes, every stage seeded with `seed`."""
        encoder = base if self.has_encoder else preset("tiny")
        below: dict[str, Any] = {"encoder": encoder.encoder, "csft": encoder.csft, "ciubm": base.ciubm}
        changed = {
            name: from_mapping(type(config), {**to_mapping(config), **getattr(self, name)})
            for name, config in below.items()
        }
        stages = replace(encoder, **{**changed, "ciubm": self.ranker(changed["ciubm"])})
        trained = {"pretrain": "1" in self.stages, "csft": "2" in self.stages, "ciubm": True}
        return replace(
            stages, **{name: _seeded(getattr(stages, name), seed, trains) for name, trains in trained.items()}
        )


def _seeded(stage: Any, seed: int, trains: bool) -> Any:
    epochs = stage.training.epochs if trains else 0
    return replace(stage, training=replace(stage.training, seed=seed, epochs=epochs))


def _with(*names: str) -> Callable[[CiubmConfig], CiubmConfig]:
    """Adds interests to those that a ranker has."""

    def add(config: CiubmConfig) -> CiubmConfig:
        heads = {"semantic_target_attention": 2}
        new = [Interest(name, heads=heads.get(name, 1)) for name in names if config.interest(name) is None]
        return replace(config, interests=(*config.interests, *new))

    return add


JOINT = {"item_embedding_parts": ["joint"]}  # one view of the encoder, whatever else the run keeps of an item
TOWERS = {"item_embedding_parts": ["text_features", "image_features"]}
GRID: dict[str, Variant] = {
    "ids": Variant("ids alone", "none", ranker=CiubmConfig.without_content),
    "raw": Variant("+ vectors of the encoder as it comes", "raw", encoder=JOINT, ciubm=ONE_RANKER),
    "stage1": Variant("+ stage 1", "1", encoder=JOINT, ciubm=ONE_RANKER),
    "stage2": Variant("stage 2 without stage 1", "2", encoder=JOINT, ciubm=ONE_RANKER),
    "stages": Variant("+ stages 1 and 2", encoder=JOINT, ciubm=ONE_RANKER),
    "features": Variant("what the towers say as they come, alone", "raw", encoder=TOWERS, ciubm=ONE_RANKER),
    "full": Variant("as configured"),
    "batch": Variant("stage 2 with negatives of the batch alone", csft={"terms": [{"negatives": ["in_batch"]}]}),
    "hard": Variant("stage 2 with hard negatives alone", csft={"terms": [{"negatives": ["hard"]}]}),
    "time": Variant(
        "stage 2 with the queue too",
        csft={
            "queue_size": 4096,
            "terms": [{"negatives": ["hard"]}, {"negatives": ["in_batch", "queue"], "weight": 0.3}],
        },
    ),
    "step_positives": Variant("what a step shows alone is a positive", csft={"mask_known_positives": False}),
    "all_positives": Variant("all that a user likes is a positive", csft={"mask_known_positives": True}),
    "modality": Variant(
        "stage 2 with a term for each modality", csft={"loss_preset": "modality", "queue_size": 0, "terms": []}
    ),
    "dimension": Variant(
        "stage 2 with nested dimensions", csft={"loss_preset": "matryoshka", "queue_size": 0, "terms": []}
    ),
    "same_category": Variant(
        "stage 2 with hard negatives of the item's category too",
        csft={"num_same_category_negatives": 8, "loss_preset": "negatives", "terms": []},
    ),
    "orders": Variant(
        "stage 2 with orders alone, what was merely clicked as hard negatives",
        csft={"min_signal": "order", "terms": [{"negatives": ["in_batch", "queue", "hard"]}]},
    ),
    "orders_alone": Variant("stage 2 with orders alone", csft={"min_signal": "order"}),
    "no_ids": Variant("without ids", ranker=CiubmConfig.without_ids),
    "no_fusion": Variant(
        "without fused interest", ranker=lambda config: config.without_interest("semantic_target_attention")
    ),
    "attention": Variant(
        "with attention", encoder=JOINT, ciubm=ONE_RANKER, ranker=_with("target_attention", "modal_attention")
    ),
    "simtier": Variant("with SimTier", encoder=JOINT, ciubm=ONE_RANKER, ranker=_with("sim_tier")),
    "all_interests": Variant(
        "with attention, SimTier and SA-TA",
        encoder=JOINT,
        ciubm=ONE_RANKER,
        ranker=_with("target_attention", "modal_attention", "sim_tier", "semantic_target_attention"),
    ),
}


def chosen(names: str) -> dict[str, Variant]:
    """Variants by their names, comma-separated; all where there is none.

    Raises:
        ConfigError: an unknown name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(GRID)
    if unknown := [name for name in wanted if name not in GRID]:
        raise ConfigError(f"a variant is one of {', '.join(GRID)}; received {', '.join(unknown)}. Choose of these.")
    return {name: GRID[name] for name in wanted}
