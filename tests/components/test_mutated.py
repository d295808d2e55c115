"""Some of the broken inputs of `mim bench mutated`, others than it takes: every row is used or rejected."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import mutated
from components.contract.tables import ContractError, read_file


def test_nothing_is_lost() -> None:
    found = mutated.run(range(1_000_000, 1_000_400))
    assert found["wrong"] == []
    assert sum(found["outcomes"].values()) == 400
    assert {"all rows used", "rows rejected", "stopped by ContractError"} <= set(found["outcomes"])
    assert found["rows"]["in"] == sum(found["rows"][what] for what in ("used", "rejected", "dropped")) > 4_000


@pytest.mark.parametrize("number", [4724, 7447])
def test_what_was_wrong_once(number: int) -> None:
    found = mutated.run(range(number, number + 1))
    assert found["wrong"] == []
    assert sum(found["outcomes"].values()) == 1


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutated, "SECONDS", 1.0)
    monkeypatch.setattr(mutated, "_examine_share", _dies)
    assert mutated.run(range(2))["wrong"] == ["input 0: crash; 1 s", "input 1: crash; 1 s"]


def _dies(share: range, answers: object) -> None:
    raise SystemExit(139)


def checked(tmp_path: object, table: str, columns: dict[str, pa.Array]) -> tuple:
    path = f"{tmp_path}/{table}.parquet"
    pq.write_table(pa.table(columns), path)
    (batch,) = read_file(path, table, mutated.schema_of(table).table(table))
    return mutated.checker(table, tmp_path)(batch)  # type: ignore[arg-type]


def test_types_that_cannot_be_are_told_by_name(tmp_path: object) -> None:
    with pytest.raises(ContractError, match=r"users.parquet: column city must hold one value a row; its type is list<"):
        checked(tmp_path, "users", {"user_id": pa.array(["u"]), "city": pa.array([["a"]])})
    with pytest.raises(ContractError, match="column image must hold the bytes of pictures; its type is string"):
        checked(tmp_path, "items", {name: pa.array(["i"]) for name in ("item_id", "text", "brand", "price", "image")})


def test_whole_numbers_among_fractions_and_bytes_that_are_no_text(tmp_path: object) -> None:
    valid, rejects, dropped, missing, _ = checked(
        tmp_path,
        "impressions",
        {
            "user_id": pa.array([b"u", b"u", b"\xff\xfe", b"u"]),
            "item_id": pa.array(["i1"] * 4),
            "timestamp": pa.array([1.7e9, 1.7e9 + 0.5, 1.7e9, None]),  # as pandas writes them where some are missing
            "clicked": pa.array([1.0, 0.0, 0.0, 1.0]),
            "page": pa.array(["p"] * 4),
        },
    )
    assert valid["timestamp"].to_pylist() == [1_700_000_000, 1_700_000_000]
    assert valid["sequence"].to_pylist() == [0, 500_000]  # the microseconds
    assert not dropped
    assert not missing
    assert [reject["reason"] for reject in rejects] == [
        r"user_id is not UTF-8 text (received \"b'\\xff\\xfe'\")".replace(r"\"", '"'),
        "no timestamp",
    ]
