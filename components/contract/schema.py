"""The declared schema of a shop's data: which tables there are, what their columns mean, what becomes of odd rows.

A folder of tables may hold a `shop.yaml`, which `components.contract.files.load_schema` reads.  Without one, tables and
columns have the names of the contract:

    items:
      files: artikel.csv
      delimiter: ";"
      columns:
        item_id: artikel_nr                                   # the contract's name: the shop's
        text: {column: beschreibung_html, html: true}
        category: {column: warengruppe, separator: ">"}
        price: {column: preis_eur, type: number, decimal: ","}  # not in the contract: an attribute of the item
    events:
      files: ereignisse.csv.gz
      columns: {user_id: kunde, item_id: artikel, timestamp: zeit, event: ereignis}
      labels: {clicked: [click], ordered: {events: [order], window_seconds: 86400}}
    policies: {unknown_items: drop}
"""

from __future__ import annotations

import codecs
import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import yaml

from mim_keras.config import ConfigError, from_mapping, require, to_mapping
from mim_keras.config.mapping import require_choices

SCHEMA_FILE = "shop.yaml"
SPAN = "{SPAN}"
MAX_LABELS = 32
TIME_FORMATS = ("auto", "s", "ms", "us", "ns")  # or a format of `datetime.strptime`


@dataclass(frozen=True)
class ContractColumn:
    """A column that the contract names.

    Attributes:
        kind: id | text | list | time | integer | image.
        required: Whether a row needs a value.
        meaning: For the docs.
    """

    kind: str
    required: bool
    meaning: str


def _optional(kind: str, meaning: str) -> ContractColumn:
    return ContractColumn(kind, False, meaning)


def _required(kind: str, meaning: str) -> ContractColumn:
    return ContractColumn(kind, True, meaning)


CONTRACT: dict[str, dict[str, ContractColumn]] = {
    "items": {
        "item_id": _required("id", "the item; unique"),
        "title": _optional("text", "its name"),
        "text": _optional("text", "its description"),
        "category": _optional("list", "its categories"),
        "image": _optional("image", "the encoded picture"),
        "image_path": _optional("text", "where the picture lies: a file below the folder, or a member of its archive"),
        "created_at": _optional("time", "when the shop began to sell it"),
    },
    "impressions": {
        "user_id": _required("id", "who saw the item"),
        "item_id": _required("id", "what was seen"),
        "timestamp": _required("time", "when"),
        "clicked": _required("integer", "1 if it was clicked, else 0"),
        "sequence": _optional("integer", "the order among impressions of the same second"),
    },
    "events": {
        "user_id": _required("id", "who"),
        "item_id": _required("id", "with what"),
        "timestamp": _required("time", "when"),
        "event": _required("text", "what happened"),
        "request_id": _optional("id", "the request or session that the event belongs to"),
        "event_id": _optional("id", "the event; a second one of the same id is a duplicate"),
    },
    "intents": {
        "item_id": _required("id", "the item that the query led to"),
        "timestamp": _required("time", "when"),
        "query_item_id": _optional("id", "the query, if it was an item"),
        "query_image": _optional("image", "the query, if it was a picture"),
        "query_text": _optional("text", "the query, if it was a text"),
        "signal": _optional("text", "click | cart | order; click if empty"),
    },
    "users": {
        "user_id": _required("id", "the user; unique"),
    },
}
# Inputs and outputs of the pipeline's own features.
RESERVED = frozenset(
    {name for table in CONTRACT.values() for name in table}
    | {
        "history_item_ids",
        "history_ages",
        "history_rows",
        "segment",
        "launched",
        "modalities",
        "user_index",
        "statistics",
        "clicked_at",
        "candidate_item_ids",
        "candidate_vectors",
        "item_ids",
        "vectors",
        "encoder_version",
        "examples",
        "self",
    }
    | {
        "item_row",
        "context",
        "ctr",
        "content_ctr",
        "final_score",
        "has_vector",
        "scores",
        "item_embedding",
        "similarity",
        "drop_id",
        "kind",
        "micros",
    }
)
_FEATURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Column:
    """Where a column comes from, and how its values are read.

    Attributes:
        column: Its name in the shop's file; empty for the same name.
        type: Of a feature, a column that the contract does not name: `categorical`, `number`, or of items `list`,
            `date`, whose age the ranker reads, and `embedding`, a ready-made vector that the encoder reads.  Of
            impressions also `label`, a further 0/1 label, which the ranker predicts beside the click.
        time: Of a time: `auto` (numbers by their size: s, ms, µs or ns; ISO 8601; YYYYMMDD; DD.MM.YYYY), a unit,
            or a format of `datetime.strptime`.
        timezone: Of times without a zone of their own, e.g. `Europe/Berlin`.
        decimal: The decimal sign of a number in text.
        html: Whether the text holds HTML, which is removed.
        separator: Between the values of a list in text, `|` if empty; or of an embedding, blanks, commas and semicolons
            if empty.
        dim: Of an embedding, how many numbers it has.
        modality: Of an embedding, what it was made from: `text` or `image`.
    """

    column: str = ""
    type: Literal["", "categorical", "number", "list", "date", "embedding", "label"] = ""
    time: str = "auto"
    timezone: str = "UTC"
    decimal: Literal[".", ","] = "."
    html: bool = False
    separator: str = ""
    dim: int = 0
    modality: Literal["text", "image"] = "text"

    def __post_init__(self) -> None:
        require_choices(self)
        ok = (self.dim > 0) == (self.type == "embedding") and self.dim >= 0
        require(ok, "an embedding, and nothing else, has a positive dim", self.dim, "e.g. type: embedding, dim: 512")
        ok = self.type != "embedding" or self.decimal == "."
        require(ok, "the numbers of an embedding have decimal points", self.decimal, "Remove `decimal`.")
        if self.time not in TIME_FORMATS:
            try:
                datetime.strptime(datetime(2001, 12, 31).strftime(self.time), self.time)
                ok = "%" in self.time
            except ValueError:
                ok = False
            fix = 'e.g. "%d/%m/%Y %H:%M"'
            require(ok, f"time is one of {', '.join(TIME_FORMATS)} or a format of strptime", self.time, fix)
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(
                f"timezone is a name of the IANA database; received {self.timezone!r}. E.g. Europe/Berlin."
            ) from error

    @staticmethod
    def from_plain(value: Any, where: str) -> Column:
        """From YAML: the source column's name, or a mapping."""
        if isinstance(value, str):
            return Column(value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is a column's name or a mapping; received {value!r}. Quote the name.")
        if value.get("column", "") != str(value.get("column", "")):
            raise ConfigError(f"{where}.column is a name; received {value['column']!r}. Quote it.")
        return _from_fields(Column, value, where)


def _from_fields(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """`from_mapping` for a class that has a `from_plain` of its own."""
    unknown = sorted(set(values) - set(cls.__dataclass_fields__))
    require(
        not unknown,
        f"{where} accepts only the keys {', '.join(cls.__dataclass_fields__)}",
        unknown,
        "Rename or remove it.",
    )
    for name, value in values.items():
        kind = type(getattr(cls(), name))
        require(type(value) is kind, f"{where}.{name} is of type {kind.__name__}", value, "Change its value.")
    return cls(**values)


class ColumnMapping(dict[str, Column]):
    """Contract name or feature name → `Column`."""

    @classmethod
    def from_plain(cls, value: Any, where: str) -> ColumnMapping:
        """From YAML."""
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is a mapping; received {value!r}. Write `NAME: COLUMN` lines.")
        return cls({str(name): Column.from_plain(one, f"{where}.{name}") for name, one in value.items()})


@dataclass(frozen=True)
class Table:
    """One table of the shop.

    Attributes:
        files: A glob of its files, relative to the folder; `{SPAN}` stands for a date or a number. Empty: files and
            folders that have the table's name.
        delimiter: Of text files; empty: a comma, and a tab in `.tsv`.
        encoding: Of text files.
        quoting: Whether `"` quotes fields; null: in all text files but `.tsv`.
        columns: Where the columns come from. One that is not named has the contract's name.
    """

    files: str = ""
    delimiter: str = ""
    encoding: str = "utf-8"
    quoting: bool | None = None
    columns: ColumnMapping = field(default_factory=ColumnMapping)

    def __post_init__(self) -> None:
        ok = len(self.delimiter) <= 1 and self.delimiter not in ('"', "\n", "\r")
        require(ok, "delimiter is one character", self.delimiter, "e.g. ';'")
        try:
            codecs.getincrementaldecoder(self.encoding)().decode("a".encode(self.encoding), final=True)
        except (LookupError, TypeError, ValueError, AssertionError) as error:
            rule = "encoding is one of text that Python knows"
            raise ConfigError(f"{rule}; received {self.encoding!r}. E.g. cp1252.") from error

    def source(self, name: str) -> str:
        """The shop's name of column `name`."""
        return self.columns[name].column or name if name in self.columns else name

    def column(self, name: str) -> Column:
        """How column `name` is read."""
        return self.columns.get(name, Column())

    def features(self, table: str) -> dict[str, str]:
        """Features that are not in the contract, by name: `categorical`, `number` or `list`."""
        other = ("date", "embedding", "label")
        return {name: kind for name, kind in self.declared(table).items() if kind not in other}

    def declared(self, table: str) -> dict[str, str]:
        """All columns that are not in the contract, by name, with their types."""
        return {name: one.type or "categorical" for name, one in self.columns.items() if name not in CONTRACT[table]}

    def dates(self) -> tuple[str, ...]:
        """Names of the features that are dates."""
        return tuple(name for name, one in self.columns.items() if one.type == "date")

    def label_columns(self) -> tuple[str, ...]:
        """Names of the columns that are labels beside the click."""
        return tuple(name for name, one in self.columns.items() if one.type == "label")

    def embeddings(self) -> dict[str, Column]:
        """Ready-made embeddings, by name."""
        return {name: one for name, one in self.columns.items() if one.type == "embedding"}


@dataclass(frozen=True)
class EventLabel:
    """The events that set a label.

    Attributes:
        events: Their names.  An event may set several labels: `clicked: [click, order]`, `ordered: [order]`.
        window_seconds: Attribution window; 0 uses `events.window_seconds`.
    """

    events: tuple[str, ...] = ()
    window_seconds: int = 0

    def __post_init__(self) -> None:
        ok = bool(self.events) and all(isinstance(event, str) and event for event in self.events)
        require(ok, "a label of events.labels names at least one event", self.events, "e.g. clicked: [click]")
        ok = self.window_seconds >= 0
        require(ok, "window_seconds of a label is 0 or more", self.window_seconds, "0 is events.window_seconds.")


class EventLabels(dict[str, EventLabel]):
    """Label → `EventLabel`."""

    @classmethod
    def from_plain(cls, value: Any, where: str) -> EventLabels:
        """From YAML: a list of events, or a mapping with `events`."""
        rule = f"{where} is a mapping of labels to lists of events"
        require(isinstance(value, Mapping), rule, value, "e.g. clicked: [click]")
        found = cls()
        for name, one in value.items():
            plain = one if isinstance(one, Mapping) else {"events": one}
            found[str(name)] = from_mapping(EventLabel, plain, f"{where}.{name}")
        return found


@dataclass(frozen=True)
class EventTable(Table):
    """A log of events, which are joined into impressions.

    Attributes:
        view: Events that are impressions.
        labels: Label to the events that set it: `clicked` and further ones, which the ranker predicts beside the click.
        window_seconds: A label event counts for the user's latest view of the item, if it is at most so old.
    """

    view: tuple[str, ...] = ("view",)
    labels: EventLabels = field(default_factory=lambda: EventLabels(clicked=EventLabel(("click",))))
    window_seconds: int = 1800

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.view), "events.view names at least one event", self.view, "e.g. [view]")
        rule, fix = "events.labels must contain the label clicked", "e.g. clicked: [click]"
        require("clicked" in self.labels, rule, sorted(self.labels), fix)
        few = len(self.labels) <= MAX_LABELS
        require(few, f"events.labels has at most {MAX_LABELS} labels", len(self.labels), "Leave some out.")
        both = sorted({event for one in self.labels.values() for event in one.events} & set(self.view))
        require(not both, "an event is a view or a label", both, "Remove it from events.view or events.labels.")
        require(self.window_seconds > 0, "events.window_seconds is positive", self.window_seconds, "1800 is usual.")


@dataclass(frozen=True)
class Policies:
    """What becomes of rows that keep the contract and still do not fit.

    Attributes:
        unknown_items: A row about an item that the catalogue lacks is dropped and counted; or kept and counted, its
            item without content and attributes, and used for no pair; or rejected as broken.
        repeated_ids: Of several rows with one id in `items` or `users`, the latest (by file, then row) is kept, or the
            first, and the others are dropped and counted; or all but the first are rejected.
        repeated_rows: An impression that agrees with another one in all but its labels is dropped and counted, and the
            other one has the labels of both; or both are kept. Events that repeat another one are always dropped.
        ingestion_lag_seconds: How long a click takes until the shop's histories hold it.
    """

    unknown_items: Literal["drop", "keep", "reject"] = "drop"
    repeated_ids: Literal["latest", "first", "reject"] = "latest"
    repeated_rows: Literal["drop", "keep"] = "drop"
    ingestion_lag_seconds: int = 0

    def __post_init__(self) -> None:
        require_choices(self, "policies.")
        lag = self.ingestion_lag_seconds
        require(lag >= 0, "policies.ingestion_lag_seconds is 0 or more", lag, "0 counts every click at once.")


@dataclass(frozen=True)
class Schema:
    """The tables of a shop.

    Attributes:
        items, impressions, events, intents, users: Where the columns of each come from.
        images: The folder that `image_path` is relative to; empty for the folder of the tables.
        policies: What becomes of rows that do not fit.
    """

    items: Table = field(default_factory=Table)
    impressions: Table = field(default_factory=Table)
    events: EventTable | None = None
    intents: Table = field(default_factory=Table)
    users: Table = field(default_factory=Table)
    images: str = ""
    policies: Policies = field(default_factory=Policies)

    def __post_init__(self) -> None:
        seen = dict.fromkeys(self.events.labels if self.events is not None else (), "events.labels")
        for label in seen:
            if label != "clicked":
                fix = f"Rename it, e.g. `{safe_name(label)}: [...]`."
                _check_feature_name(label, "events.labels", fix)
                _check_label_name(label, "events.labels")
        for table in CONTRACT:
            declared = self.table(table) or Table()
            for name, column in declared.columns.items():
                require(
                    not (column.type and name in CONTRACT[table]),
                    f"{table}.columns.{name} has the contract's type",
                    column.type,
                    "Remove `type`, or give the feature a name of its own.",
                )
            for name, kind in declared.declared(table).items():
                fix = f"Write e.g. `{safe_name(name)}: {{column: {json.dumps(name)}}}`."
                _check_feature_name(name, f"{table}.columns", fix)
                fix = "Only items have lists, dates and embeddings."
                require(
                    kind not in ("list", "date", "embedding") or table == "items",
                    f"{table}.columns.{name} has one value a row",
                    kind,
                    fix,
                )
                if kind == "label":
                    fix = "Of events, events.labels names the events that set a label."
                    rule = f"{table}.columns.{name}: only impressions have columns that are labels"
                    require(table == "impressions", rule, kind, fix)
                    _check_label_name(name, table)
                require(
                    name not in seen,
                    f"feature {name} must be declared in one table",
                    [seen.get(name), table],
                    "Rename one.",
                )
                seen[name] = table
        used = {"impressions", "events"} - {self.log}
        unused = sorted(name for name in used if self.table(name) not in (None, Table()))
        require(not unused, "impressions come from one table: impressions or events", unused, "Remove one.")

    def table(self, name: str) -> Table | None:
        """Table `name`; None for events where there are none."""
        table: Table | None = getattr(self, name)
        return table

    @property
    def log(self) -> str:
        """The table that impressions come from: `impressions` or `events`."""
        return "events" if self.events is not None else "impressions"

    @property
    def labels(self) -> tuple[str, ...]:
        """What the ranker predicts: `clicked`, then the further labels in the order of `shop.yaml`."""
        further = self.impressions.label_columns() if self.events is None else self.events.labels
        return ("clicked", *(label for label in further if label != "clicked"))

    @property
    def ranker_features(self) -> dict[str, str]:
        """The features of an impression and of its user, by name: `categorical` or `number`; in one fixed order."""
        log = self.table(self.log)
        assert log is not None
        return log.features(self.log) | self.users.features("users")

    @staticmethod
    def from_plain_values(values: Any, where: str = SCHEMA_FILE) -> Schema:
        """From what YAML or JSON holds.

        Raises:
            ConfigError: a key is unknown, or a value breaks its rule.
        """
        require(isinstance(values, Mapping), f"{where} holds the tables", values, "See the docs of `shop.yaml`.")
        try:
            return from_mapping(Schema, values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    @staticmethod
    def from_yaml(text: str | bytes, where: str = SCHEMA_FILE) -> Schema:
        """From the text of a `shop.yaml`.

        Raises:
            ConfigError: it is not YAML, or breaks a rule.

        Example:
            >>> from components.contract.schema import Schema
            >>> schema = Schema.from_yaml("items: {columns: {item_id: sku, brand: {column: Marke}}}")
            >>> schema.items.source("item_id"), schema.items.features("items")
            ('sku', {'brand': 'categorical'})
        """
        try:
            values = yaml.load(text, _Loader)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{where} is not valid YAML: {error}") from error
        return Schema.from_plain_values({} if values is None else values, where)

    def to_json(self) -> str:
        """For an execution property; `from_json` reads it."""
        return json.dumps(to_mapping(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Schema:
        """The inverse of `to_json`."""
        return Schema.from_plain_values(json.loads(text), "schema")


class _Loader(yaml.SafeLoader):
    """YAML in which no key is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _check_feature_name(name: str, where: str, fix: str) -> None:
    ok = bool(_FEATURE_NAME.fullmatch(name)) and not keyword.iskeyword(name)
    require(ok, f"{where}: a name is letters, digits and _", name, fix)
    ok = _is_free(name)
    require(ok, f"{where}: this name belongs to the pipeline", name, fix)


def _is_free(name: str) -> bool:
    """Whether the pipeline and the signatures make no such name; `candidate_NAME` is the input of an attribute."""
    return name not in RESERVED and not name.endswith("_index") and not name.startswith("candidate_")


def _check_label_name(name: str, table: str) -> None:
    ok = re.search(r"_\d+$", name) is None and not name.startswith("has_")
    require(ok, f"{table}: the name of a label does not end in _ and digits, nor begin with has_", name, "Rename it.")


def safe_name(name: str) -> str:
    """A name that a feature may have, from any column's.

    Example:
        >>> from components.contract.schema import safe_name
        >>> safe_name("geo-country"), safe_name("größe"), safe_name("class")
        ('geo_country', 'groesse', 'class_feature')
    """
    for letter, plain in {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}.items():
        name = name.replace(letter, plain).replace(letter.upper(), plain.capitalize())
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:48]
    plain = re.sub(r"^(candidate_)+", "", plain) or "feature"
    plain = plain if plain[0].isalpha() else f"f_{plain}"
    taken = keyword.iskeyword(plain) or not _is_free(plain)
    return f"{plain}_feature" if taken else plain
