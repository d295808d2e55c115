"""All settings of a run, in one frozen object, from a YAML file and `--set key=value`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from components.contract.schema import Column, ColumnMapping, Schema
from components.history_gen.span_statistics import entity_names
from components.item_attributes import LEARNED
from mim_keras.config import (
    PRESETS,
    CiubmConfig,
    ConfigError,
    EmbeddingTowerConfig,
    StagesConfig,
    from_mapping,
    require,
)
from mim_keras.config.mapping import require_choices
from tfx_pipeline.auto_settings import ASSUMED, DataCounts, auto_values

CONFIGS = Path(__file__).parent / "configs"
SCHEMAS = Path(__file__).parent / "schemas"
ID_COLUMNS = ("user_id", "item_id")


@dataclass(frozen=True)
class SplitConfig:
    """How impressions become train, valid and test; always in time's order."""

    by: str = "time"  # time: one boundary for all; user: each user's own first, next and last rows
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)  # shares of the rows for train, valid and test
    new_items: int = 0  # one item in N is launched only with the test, to see what content alone is worth; 0: none

    def __post_init__(self) -> None:
        require(self.by in ("time", "user"), "data.split.by is time or user", self.by, "Choose one.")
        ok = len(self.fractions) == 3 and abs(sum(self.fractions) - 1) < 1e-6 and min(self.fractions) > 0
        require(
            ok, "data.split.fractions are three positive numbers that add to 1", self.fractions, "e.g. [0.8, 0.1, 0.1]"
        )
        ok = self.new_items == 0 or self.new_items >= 2
        require(ok, "data.split.new_items is 0 or at least 2", self.new_items, "10 launches a tenth of the items late.")


@dataclass(frozen=True)
class SpanConfig:
    """Which folders of the log and of `intents` are read, where each day or each delivery has its own."""

    pattern: str = ""  # below the table's folder, {SPAN} a date or a number: "{SPAN}", "day={SPAN}"; empty: everything
    window: int = 0  # the latest N days or deliveries of these, or of the {SPAN}s in shop.yaml; 0: all
    until: str = ""  # the newest day or delivery that is read; empty: the newest that is there
    missing: Literal["stop", "allow"] = (
        "stop"  # a day inside the window that has no files: stop, or allow it and count it
    )
    # of items and users, where they lie in such folders: all, of which later rows replace earlier ones; or the latest
    # alone, which holds the whole table
    catalogue: Literal["all", "latest"] = "all"

    def __post_init__(self) -> None:
        ok = not self.pattern or self.pattern.count("{SPAN}") == 1
        require(ok, "data.spans.pattern holds {SPAN} once", self.pattern, 'e.g. "day={SPAN}"')
        require(self.window >= 0, "data.spans.window is 0 or more", self.window, "0 reads all spans.")
        ok = not self.until or re.fullmatch(r"\d[\d-]*", self.until) is not None
        require(ok, "data.spans.until is a date or a number", self.until, "e.g. 2026-01-31")
        require_choices(self, "data.spans.")


@dataclass(frozen=True)
class PairConfig:
    """Which pairs C-SFT learns from."""

    # intents; history: two clicks; impressions: earlier clicks, a click, and what was seen and not clicked;
    # auto: intents where there are any, else history
    source: str = "auto"
    window_seconds: int = 7 * 24 * 3600  # two clicks of a user farther apart than this make no pair
    max_per_user: int = 50  # the latest N pairs of a user; 0: all
    max_gap: int = 3  # how many clicks may lie between the two
    query_length: int = 20  # from impressions: the most earlier clicks that are the query
    hard: int = 16  # from impressions: the most items seen near the click and not clicked

    def __post_init__(self) -> None:
        options = ("intents", "history", "impressions", "auto")
        require(self.source in options, f"data.pairs.source is one of {options}", self.source, "Choose one.")
        require(self.query_length >= 1, "data.pairs.query_length is at least 1", self.query_length, "20 is usual.")
        require(self.max_per_user >= 0, "data.pairs.max_per_user is 0 or more", self.max_per_user, "0 takes all.")
        require(self.hard >= 0, "data.pairs.hard is 0 or more", self.hard, "16 is usual.")


@dataclass(frozen=True)
class StatisticsConfig:
    """Impressions, clicks, click rate and recency as of the last completed span, as features of the ranker."""

    enabled: bool = False  # of the item, the user, each attribute's value, and the user with each attribute's value
    attributes: tuple[str, ...] = ()  # of items; empty: the category and all that shop.yaml declares
    span_seconds: int = 86_400  # a day, from midnight UTC: what happens within it counts from its end on
    smoothing: float = 20.0  # impressions that the overall click rate counts for in each click rate

    def __post_init__(self) -> None:
        rule = "data.statistics.span_seconds is at least 3600: shorter spans count as many rows as the log has"
        require(self.span_seconds >= 3_600, rule, self.span_seconds, "e.g. 86400")
        require(self.smoothing > 0, "data.statistics.smoothing is positive", self.smoothing, "20 is usual.")

    def kinds(self, schema: Schema) -> dict[str, str]:
        """Kind of each attribute that is counted, by name.

        Raises:
            ConfigError: `attributes` names one that the schema does not declare.
        """
        known = {"category": "list", **schema.items.features("items")}
        unknown = sorted(set(self.attributes) - set(known))
        rule = f"data.statistics.attributes are among {', '.join(known)}"
        fix = "Declare it in shop.yaml under items.columns; ages of dates are read without being named."
        require(not unknown, rule, unknown, fix)
        return {name: known[name] for name in self.attributes or known}


def dates_of(schema: Schema) -> tuple[str, ...]:
    """Dates of an item whose age is among its statistics."""
    return ("created_at", *schema.items.dates())


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how strictly."""

    spans: SpanConfig = field(default_factory=SpanConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    max_rejected_fraction: float = 0.01  # a larger share of rejected rows of one table stops the run
    schema: str = ""  # folder of items.pbtxt and examples.pbtxt (`mim schema` writes them), or a shipped one's name
    stop_on_anomalies: bool = True  # if false, anomalies are logged and the run continues
    cold_max_clicks: int = 5  # an item with at most so many training clicks is cold
    vocabulary_min_count: int = 2  # an id seen less often in training shares an out-of-vocabulary row
    # the same for single columns, user_id and item_id: {user_id: 5}
    min_counts: dict[str, int] = field(default_factory=dict)
    oov_buckets: int = 1  # out-of-vocabulary rows; with several, ids share them by hash
    buckets: int = 10  # quantile buckets of a feature of type number
    content_clusters: int = 0  # clusters of pictures, and of texts, at most, that are attributes of items; 0: none
    content_words: int = 0  # words in which users differ, at most, that are an attribute of items; 0: none

    def __post_init__(self) -> None:
        ok = 0 <= self.max_rejected_fraction <= 1
        require(ok, "data.max_rejected_fraction is in [0, 1]", self.max_rejected_fraction, "0.01 is usual.")
        require(self.oov_buckets >= 1, "data.oov_buckets is 1 or more", self.oov_buckets, "1 is usual.")
        unknown = sorted(set(self.min_counts) - set(ID_COLUMNS))
        require(not unknown, f"data.min_counts are of {' and '.join(ID_COLUMNS)}", unknown, "e.g. {user_id: 5}")
        ok = all(type(count) is int and count >= 0 for count in self.min_counts.values())
        require(ok, "data.min_counts are whole numbers, 0 or more", self.min_counts, "e.g. {user_id: 5}")
        require(self.buckets >= 2, "data.buckets is 2 or more", self.buckets, "10 is usual.")
        clusters = self.content_clusters
        require(clusters == 0 or clusters >= 2, "data.content_clusters is 0, or 2 or more", clusters, "16 is usual.")
        require(self.content_words >= 0, "data.content_words is 0 or more", self.content_words, "200 is usual.")

    @property
    def learns_attributes(self) -> bool:
        """Whether ContentAttributes runs."""
        return self.content_clusters > 0 or self.content_words > 0

    def with_learned_attributes(self, schema: Schema) -> Schema:
        """The schema of the items that ContentAttributes writes.

        Raises:
            ConfigError: the shop has a column of one of these names.
        """
        if not self.learns_attributes:
            return schema
        clash = sorted(set(LEARNED) & set(schema.items.columns))
        rule = f"items.columns has none of {', '.join(LEARNED)} where attributes are learned from content"
        fix = "Rename it in shop.yaml, or set data.content_clusters and data.content_words to 0."
        require(not clash, rule, clash, fix)
        columns = {**schema.items.columns, **{name: Column(type=kind) for name, kind in LEARNED.items()}}
        return replace(schema, items=replace(schema.items, columns=ColumnMapping(columns)))

    def min_count(self, column: str) -> int:
        """How often a value of `column` must be seen in training to have a row of its own."""
        return self.min_counts.get(column, self.vocabulary_min_count)

    def kept_schema(self, table: str) -> str:
        """Text of the schema that is kept of `items` or `examples`; empty where none is.

        Raises:
            ConfigError: the folder lacks it.
        """
        if not self.schema:
            return ""
        own = Path(self.schema)
        file = (own if own.is_dir() else SCHEMAS / self.schema) / f"{table}.pbtxt"
        fix = "`mim schema --root ROOT --to FOLDER` writes one."
        require(file.is_file(), f"data.schema names a folder with {table}.pbtxt", self.schema, fix)
        return file.read_text()

    def statistics_spec(self, schema: Schema) -> str:
        """What HistoryGen counts, as JSON; empty for nothing."""
        statistics = self.statistics
        if not statistics.enabled:
            return ""
        counted = {
            "attributes": statistics.kinds(schema),
            "seconds": statistics.span_seconds,
            "dates": dates_of(schema),
        }
        return json.dumps(counted)

    def baseline_features(self, schema: Schema) -> str:
        """What the baselines read, as JSON: attributes that the shop declares, none that are learned from content."""
        entities = entity_names(self.statistics.kinds(schema)) if self.statistics.enabled else ()
        attributes = {name: kind for name, kind in schema.items.features("items").items() if name not in LEARNED}
        return json.dumps({"attributes": attributes, "context": schema.ranker_features, "entities": entities})

    def transform(self, schema: Schema) -> dict[str, Any]:
        """Settings of `tfx_pipeline.preprocessing`, and of those who must know how large its indices are."""
        features = schema.ranker_features
        return {
            "labels": list(schema.labels),
            "categorical_features": list(features),
            "bucketed_features": [name for name, kind in features.items() if kind == "number"],
            "buckets": self.buckets,
            "oov_buckets": self.oov_buckets,
            "vocabulary_min_count": self.vocabulary_min_count,
            "min_counts": {name: self.min_count(name) for name in ID_COLUMNS},
            "statistics": list(entity_names(self.statistics.kinds(schema))) if self.statistics.enabled else [],
            "dates": len(dates_of(schema)),
            "smoothing": self.statistics.smoothing,
        }


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

    min_auc: float = 0.5  # lowest AUC on the test rows
    max_auc_drop: float = 0.005  # against the last released ranker
    min_examples: int = 100  # fewest test rows that a verdict needs
    ids_only_comparison: bool = True  # also train the same ranker without content, and report both
    # a ranker is pushed only if its AUC on the test rows is above that of click rates and of gradient boosting, by a
    # 95 % interval over users
    must_beat_baselines: bool = True


@dataclass(frozen=True)
class Settings:
    """One run of the pipeline."""

    name: str = "mim"  # of the pipeline, in its metadata and its report
    data: DataConfig = field(default_factory=DataConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    warm_start: bool = False  # keep the last release's encoder, encode new content alone, and train its ranker on
    # flags of Beam's pipelines; those behind `--` on the command line come after them
    beam_args: tuple[str, ...] = ("--direct_running_mode=in_memory", "--direct_num_workers=1")
    retrieval_neighbours: int = 50  # items that one query of the index answers with

    def __post_init__(self) -> None:
        for stage in ("pretrain", "csft", "ciubm"):
            require(
                getattr(self.stages, stage).training.strategy != "multi_worker",
                f"stages.{stage}.training.strategy is one_device or mirrored: a pipeline's Trainer is one process",
                "multi_worker",
                "Several workers train by mim_keras itself (docs/models.md).",
            )

    @staticmethod
    def load(path: str | Path, overrides: Sequence[str] = (), counts: DataCounts = ASSUMED) -> Settings:
        """Reads a YAML file, lays what it `extends:` and `preset:` under it and `key.path=value` overrides over it.

        Args:
            path: Of the file, or the name of a shipped one.
            overrides: `key.path=value`.
            counts: Of the data, for `preset: auto`.

        Raises:
            ConfigError: the file is missing or not YAML, or a setting breaks its rule.
        """
        values = _read(path)
        size = values.pop("preset", "base")
        known = ("auto", *PRESETS)
        require(size in known, f"preset is one of {', '.join(known)}", size, "Choose one.")
        below = auto_values(counts) if size == "auto" else {"stages": copy.deepcopy(PRESETS[size])}
        merged = _merge(below, values)
        for override in overrides:
            _apply_override(merged, override)
        return from_mapping(Settings, merged)

    @staticmethod
    def is_auto(path: str | Path) -> bool:
        """Whether a settings file has `preset: auto`."""
        return _read(path).get("preset") == "auto"

    def for_schema(self, schema: Schema) -> Settings:
        """These settings, with a tower for each ready-made embedding that the schema declares, and its labels.

        Raises:
            ConfigError: `stages.encoder.embeddings` names one that the schema lacks, or gives it another width;
                `stages.ciubm` names labels or numbers that the schema lacks.
        """
        declared = schema.items.embeddings()
        for tower in self.stages.encoder.embeddings:
            known = {name: column.dim for name, column in declared.items()}
            rule = "stages.encoder.embeddings are columns of type embedding in shop.yaml"
            fix = f"Declare it: `{tower.name}: {{type: embedding, dim: {tower.dim}}}` under items.columns."
            require(known.get(tower.name) == tower.dim, rule, tower.name, fix)
        own = {tower.name for tower in self.stages.encoder.embeddings}
        more = [
            EmbeddingTowerConfig(name, column.dim, column.modality)
            for name, column in declared.items()
            if name not in own
        ]
        encoder = replace(self.stages.encoder, embeddings=(*self.stages.encoder.embeddings, *more))
        return replace(self, stages=replace(self.stages, encoder=encoder, ciubm=self._ranker_of(schema)))

    def _ranker_of(self, schema: Schema) -> CiubmConfig:
        ranker, labels = self.stages.ciubm, schema.labels
        rule = "stages.ciubm.labels are those of shop.yaml, and follow from it"
        require(ranker.labels in (("clicked",), labels), rule, ranker.labels, "Remove the setting.")
        ranker = replace(ranker, labels=labels)
        numbers = [name for name, kind in schema.items.features("items").items() if kind == "number"]
        known = (*ranker.label_outputs.values(), *numbers)
        unknown = sorted(set(ranker.final_score) - set(known))
        rule = "stages.ciubm.final_score names outputs of the ranker and numbers of items"
        require(not unknown, rule, unknown, f"Known names: {', '.join(known)}.")
        return ranker

    def require_presets(self) -> None:
        """Looks, before anything runs on this machine, whether the backbones named by a path are there.

        Raises:
            ConfigError: a folder is missing.
        """
        encoder = self.stages.encoder
        for tower, preset in (("text", encoder.text.preset), ("image", encoder.image.preset)):
            require(
                preset is None or not preset.startswith((".", "/")) or Path(preset).is_dir(),
                f"stages.encoder.{tower}.preset, where it is a path, must be a folder that is there",
                preset,
                "`make minilm` fetches MiniLM; or set this to null, and encoder.item_embedding_parts to "
                "[joint, text_features].",
            )


def _read(path: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a YAML file says, over what the one says that it names by `extends`; `above` are those that extend it."""
    file = Path(path)
    if not file.is_file() and (CONFIGS / f"{path}.yaml").is_file():
        file = CONFIGS / f"{path}.yaml"
    if not file.is_file():
        shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"--config must name a YAML file; {path} does not exist. Shipped ones: {shipped}.")
    file = file.resolve()
    chain = " -> ".join(one.name for one in (*above, file))
    require(file not in above, "a settings file must not extend itself", chain, "Take out one `extends:`.")
    try:
        values = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    require(isinstance(values, Mapping), f"{file} must hold `key: value` lines", values, "See the shipped configs.")
    values = dict(values)
    below = values.pop("extends", None)
    return values if below is None else _merge(_read(below, (*above, file)), values)


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
