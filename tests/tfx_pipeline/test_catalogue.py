"""The catalogue as the run functions read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.contract.schema import Schema
from components.item_attributes import attribute_values
from tests.components.runner import run_catalogue
from tfx_pipeline.run_fns.catalogue import Catalogue


def bytes_of(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], object)


def test_numbers_become_buckets_of_as_many_items_each() -> None:
    found = attribute_values("number", bytes_of(*map(str, range(100)), ""))
    buckets = [own[0] for own in found[:-1]]
    assert found[-1] == []
    assert {buckets.count(bucket) for bucket in set(buckets)} == {10}
    assert buckets == sorted(buckets, key=lambda name: int(name.split()[-1]))
    assert attribute_values("number", bytes_of("", "")) == [[], []]


def test_values_that_one_item_alone_has_are_left_out() -> None:
    assert attribute_values("categorical", bytes_of("a", "b", "a", "")) == [
        ["a"],
        [],
        ["a"],
        [],
    ]
    assert attribute_values("list", bytes_of("x|y", "y", "z")) == [["y"], ["y"], []]


def test_attributes_stand_beside_categories(tmp_path: Path) -> None:
    table = {
        "item_id": [f"i{n}" for n in range(20)],
        "category": ["mug"] * 20,
        "brand": [f"b{n % 2}" for n in range(20)],
        "tags": [["red", "new"] if n % 2 else ["red"] for n in range(20)],
        "price": [float(n) for n in range(20)],
    }
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    schema = Schema.from_yaml("items: {columns: {brand: brand, tags: {type: list}, price: {type: number}}}")
    made = run_catalogue(tmp_path, tmp_path / "out", schema=schema.to_json())
    found = Catalogue.read(made.uri, content=False, attributes=schema.items.features("items"))
    row_of = {item.decode(): row for row, item in enumerate(found.item_id)}
    own = {name: values[row_of["i1"]] for name, values in found.attributes.items()}
    assert own == {"brand": ["b1"], "tags": ["red", "new"], "price": ["bucket 0"]}
    assert found.attributes["price"][row_of["i19"]] == ["bucket 9"]
    assert found.categories == [["mug"]] * 20
    assert not Catalogue.read(made.uri, content=False).attributes
