"""The declared schema: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import pytest

from components.contract.schema import CONTRACT, Column, EventTable, Schema, Table, safe_name
from mim_keras.config import ConfigError

WHOLE = """
items:
  files: artikel.csv
  delimiter: ;
  columns:
    item_id: artikel_nr
    text: {column: html, html: true}
    brand: {column: marke, type: categorical}
    price: {column: preis, type: number, decimal: ","}
events:
  columns: {user_id: kunde, timestamp: {column: zeit, timezone: Europe/Berlin}, device: geraet}
  view: [seen]
  labels: {clicked: [opened, tapped]}
users: {columns: {city: ort}}
images: pictures
policies: {unknown_items: reject, repeated_ids: first, ingestion_lag_seconds: 60}
"""


def test_what_a_shop_declares() -> None:
    schema = Schema.from_yaml(WHOLE)
    assert schema.items.source("item_id") == "artikel_nr"
    assert schema.items.source("title") == "title"
    assert schema.items.features("items") == {"brand": "categorical", "price": "number"}
    assert schema.items.column("price") == Column("preis", "number", decimal=",")
    assert schema.log == "events"
    assert isinstance(schema.events, EventTable)
    assert schema.events.column("timestamp").timezone == "Europe/Berlin"
    assert schema.ranker_features == {"device": "categorical", "city": "categorical"}
    assert schema.images == "pictures"
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema().log == "impressions"
    assert Schema.from_yaml("") == Schema()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "items: {columns: {geo-country: x}}",
            r"letters, digits and _; received 'geo-country'. Write e.g. `geo_country:",
        ),
        ("items: {columns: {größe: x}}", "Write e.g. `groesse:"),
        ("items: {columns: {class: x}}", "Write e.g. `class_feature:"),
        ("items: {columns: {device type: x}}", "Write e.g. `device_type:"),
        ("items: {columns: {segment: x}}", "this name belongs to the pipeline; received 'segment'"),
        ("items: {columns: {history_item_ids: x}}", "this name belongs to the pipeline"),
        ("items: {columns: {user_id: x}}", "this name belongs to the pipeline; received 'user_id'"),
        ("items: {columns: {brand_index: x}}", "this name belongs to the pipeline"),
        ("items: {columns: {vectors: x}}", "this name belongs to the pipeline"),
        ("impressions: {columns: {candidate_brand: x}}", "this name belongs to the pipeline"),
        (
            "users: {columns: {page: a}}\nimpressions: {columns: {page: b}}",
            "feature page must be declared in one table",
        ),
        ("items: {columns: {title: {type: number}}}", "items.columns.title has the contract's type"),
        ("items: {columns: {brand: {type: colour}}}", "type is one of"),
        ("users: {columns: {tags: {type: list}}}", "users.columns.tags has one value a row"),
        (
            "items: {columns: {brand: {kolumn: x}}}",
            r"items.columns.brand accepts only the keys column, type, .* received \['kolumn'\]",
        ),
        ("items: {columns: {clip: {type: embedding}}}", "has a positive dim; received 0"),
        ("items: {columns: {brand: {dim: 3}}}", "an embedding, and nothing else, has a positive dim; received 3"),
        ("users: {columns: {taste: {type: embedding, dim: 3}}}", "users.columns.taste has one value a row"),
        (
            "items: {columns: {v: {type: embedding, dim: 3, decimal: ','}}}",
            "numbers of an embedding have decimal points",
        ),
        ("items: {columns: {statistics: x}}", "this name belongs to the pipeline"),
        ("events: {columns: {clicked_at: x}}", "this name belongs to the pipeline"),
        ("users: {columns: {candidate_item_ids: x}}", "this name belongs to the pipeline"),
        ("items: {columns: {brand: 7}}", "items.columns.brand is a column's name or a mapping; received 7"),
        ("items: {columns: {created_at: {time: yesterday}}}", "time is one of auto, s, ms, us, ns or a format"),
        ("items: {columns: {created_at: {timezone: Mars}}}", "timezone is a name of the IANA database"),
        ("items: {delimiter: ';;'}", "delimiter is one character"),
        ("items: {encoding: klingon}", "encoding is one of text that Python knows"),
        ("items: {colums: {}}", "items has no key 'colums'. Did you mean 'columns'"),
        ("events: {labels: {order: [buy]}}", "events.labels must contain the label clicked"),
        ("events: {labels: {clicked: [click], order: []}}", "names at least one event"),
        ("events: {labels: {clicked: [click], ctr: [buy]}}", "this name belongs to the pipeline"),
        ("events: {labels: {clicked: [click], order_1: [buy]}}", "does not end in _ and digits"),
        ("events: {labels: {clicked: [click], order: [buy], }, columns: {order: x}}", "must be declared in one table"),
        ("events: {columns: {order: {type: label}}}", "only impressions have columns that are labels"),
        ("items: {columns: {order: {type: label}}}", "only impressions have columns that are labels"),
        ("events: {labels: {clicked: {events: [click], window_seconds: -1}}}", "window_seconds of a label"),
        ("events: {view: [a], labels: {clicked: [a]}}", "an event is a view or a label"),
        ("events: {window_seconds: 0}", "events.window_seconds is positive"),
        ("events: {}\nimpressions: {files: a.csv}", "impressions come from one table"),
        ("policies: {unknown_items: ignore}", "policies.unknown_items is one of drop, keep, reject"),
        ("policies: {ingestion_lag_seconds: -1}", "ingestion_lag_seconds is 0 or more"),
        ("[a]", "shop.yaml holds the tables"),
        ("{", "is not valid YAML"),
        ("[" * 5_000, "is not valid YAML"),
        ("items: {files: a.csv, files: b.csv}", "the key files is given twice"),
        ("items: {encoding: rot13}", "encoding is one of text"),
        ("items: {encoding: base64}", "encoding is one of text"),
    ],
)
def test_what_breaks_a_rule_says_which(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.from_yaml(text)


@pytest.mark.parametrize(
    "name",
    [
        "geo-country",
        "größe",
        "class",
        "123",
        "_",
        "ctr",
        "x_index",
        "a" * 100,
        "日本",
        "candidate_candidate_1",
        "candidate_",
    ],
)
def test_a_safe_name_can_be_a_feature(name: str) -> None:
    assert Schema(items=Table(columns={safe_name(name): Column(name)})).items.features("items")  # type: ignore[arg-type]


def test_the_contract_is_whole() -> None:
    for table, columns in CONTRACT.items():
        assert getattr(Schema(events=EventTable()) if table == "events" else Schema(), table) is not None
        assert all(column.meaning for column in columns.values())
