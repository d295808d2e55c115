"""Everything a run can be told, in one frozen object, from a YAML file and `--set key=value`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mim_keras.config import PRESETS, ConfigError, StagesConfig, from_mapping, require

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class SplitConfig:
    """How impressions become train, valid and test; always in time's order."""

    by: str = "time"  # time: one boundary for all; user: each user's own first, next and last rows
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        require(self.by in ("time", "user"), "data.split.by is time or user", self.by, "Choose one.")
        ok = len(self.fractions) == 3 and abs(sum(self.fractions) - 1) < 1e-6 and min(self.fractions) > 0
        require(
            ok, "data.split.fractions are three positive numbers that add to 1", self.fractions, "e.g. [0.8, 0.1, 0.1]"
        )


@dataclass(frozen=True)
class PairConfig:
    """Which pairs C-SFT learns from."""

    source: str = "auto"  # intents | history | auto (intents where there are any, else history)
    window_seconds: int = 7 * 24 * 3600  # two clicks of a user farther apart than this make no pair
    max_per_user: int = 50
    max_gap: int = 3  # how many clicks may lie between the two

    def __post_init__(self) -> None:
        options = ("intents", "history", "auto")
        require(self.source in options, f"data.pairs.source is one of {options}", self.source, "Choose one.")


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how strictly."""

    split: SplitConfig = field(default_factory=SplitConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    context_features: tuple[str, ...] = ()  # further columns of `impressions`
    user_features: tuple[str, ...] = ()  # columns of `users`
    max_rejected_fraction: float = 0.01
    cold_max_clicks: int = 5  # an item with at most so many training clicks is cold
    vocabulary_min_count: int = 2  # an id seen less often in training shares the out-of-vocabulary row

    def __post_init__(self) -> None:
        ok = 0 <= self.max_rejected_fraction <= 1
        require(ok, "data.max_rejected_fraction is in [0, 1]", self.max_rejected_fraction, "0.01 is usual.")
        both = set(self.context_features) & set(self.user_features)
        require(not both, "a column is a context feature or a user feature, not both", sorted(both), "Rename one.")

    @property
    def categorical_features(self) -> tuple[str, ...]:
        """Every categorical column that goes into the ranker beside the ids, in one fixed order."""
        return self.context_features + self.user_features


@dataclass(frozen=True)
class EmbeddingsConfig:
    """How the snapshot is made."""

    dtype: str = "int8"  # int8 (scale 1/127) or float16
    batch_size: int = 128  # contents a call of the encoder

    def __post_init__(self) -> None:
        require(self.dtype in ("int8", "float16"), "embeddings.dtype is int8 or float16", self.dtype, "Choose one.")
        require(self.batch_size > 0, "embeddings.batch_size is a positive number", self.batch_size, "128 is usual.")


@dataclass(frozen=True)
class EvaluationConfig:
    """What a new ranker must reach to be pushed."""

    min_auc: float = 0.5
    max_auc_drop: float = 0.005  # against the last blessed ranker
    min_examples: int = 100
    ids_only_comparison: bool = True  # also train the same ranker without content, and report both


@dataclass(frozen=True)
class Settings:
    """One run of the pipeline."""

    name: str = "mim"
    data: DataConfig = field(default_factory=DataConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    beam_args: tuple[str, ...] = ("--direct_running_mode=in_memory", "--direct_num_workers=1")
    retrieval_neighbours: int = 50

    @staticmethod
    def load(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
        """Reads a YAML file, lays `preset:` under it and `key.path=value` overrides over it.

        Raises:
            ConfigError: the file is missing or not YAML, or a setting breaks its rule.
        """
        file = Path(path)
        if not file.is_file() and (CONFIGS / f"{path}.yaml").is_file():
            file = CONFIGS / f"{path}.yaml"
        if not file.is_file():
            shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
            raise ConfigError(f"--config must name a YAML file; {path} does not exist. Shipped ones: {shipped}.")
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is not valid YAML: {error}") from error
        require(isinstance(values, Mapping), f"{file} must hold `key: value` lines", values, "See the shipped configs.")
        values = dict(values)
        size = values.pop("preset", "base")
        require(size in PRESETS, f"preset is one of {', '.join(PRESETS)}", size, "Choose one.")
        merged = _merge({"stages": copy.deepcopy(PRESETS[size])}, values)
        for override in overrides:
            _apply_override(merged, override)
        return from_mapping(Settings, merged)


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)
    return base


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    require(bool(separator), "--set takes key=value", override, "e.g. --set stages.ciubm.training.epochs=3")
    *path, last = key.split(".")
    for part in path:
        child = values.setdefault(part, {})
        require(isinstance(child, dict), f"{part} in --set {key} holds no further keys", child, "Shorten the key.")
        values = child
    values[last] = yaml.safe_load(text)
