"""Files as shops and their tools write them: every row is read, once, under its number."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract import tables
from components.contract.schema import ColumnMapping, Table
from components.contract.tables import MALFORMED, ContractError, read_file, split_file

USERS = Table(columns=ColumnMapping.from_plain({"city": "city"}, "users.columns"))


def rows_of(path: Path, table: Table = USERS) -> list[tuple[Any, ...]]:
    """(number, user_id, city, what is malformed) of each row."""
    found = []
    for batch in read_file(str(path), "users", table):
        columns = [batch.columns.get(name, pa.nulls(len(batch))).to_pylist() for name in ("user_id", "city", MALFORMED)]
        found += list(zip(batch.rows.tolist(), *columns, strict=True))
    return found


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


FIELD = st.text(st.sampled_from(list('ab",;\n\r é')), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(FIELD, FIELD), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([1, 2, 3, 7, 50, 1000]),
)
@settings(max_examples=400, deadline=None)
def test_quoted_records_of_any_shape(
    tmp_path_factory: Any, rows: list[tuple[str, str]], end: str, delimiter: str, quoting: Any, block: int
) -> None:
    if quoting == csv.QUOTE_MINIMAL:  # Python's writer leaves a lone carriage return unquoted, which ends a line
        rows = [(a.replace("\r", "\n"), b.replace("\r", "\n")) for a, b in rows]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["user_id", "city"])
    writer.writerows(rows)
    path = write(tmp_path_factory.mktemp("csv") / "users.csv", text.getvalue().encode())
    table = Table(delimiter=delimiter, columns=USERS.columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "TEXT_BLOCK", block)
        expected = [(n, a.encode(), b.encode(), None) for n, (a, b) in enumerate(rows, 1)]
        assert rows_of(path, table) == expected


ENCODINGS = ("utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "latin-1")


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"), list(itertools.product(ENCODINGS, [",", ";", "\t", "|"], ["\n", "\r\n", "\r"]))
)
def test_encodings_delimiters_and_line_ends(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    lines = ["user_id city".replace(" ", delimiter), f"José{delimiter}Köln", f'"Zoë{delimiter} x"{delimiter}"a""b"']
    path = write(tmp_path / "users.csv", end.join([*lines, ""]).encode(encoding))
    table = Table(delimiter=delimiter, encoding=encoding, columns=USERS.columns)
    expected = [("José", "Köln"), (f"Zoë{delimiter} x", 'a"b')]
    assert [(a.decode(), b.decode()) for _, a, b, _ in rows_of(path, table)] == expected


def test_utf_16_is_recognised_by_its_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "users.csv", "user_id,city\r\nJosé,Köln\r\n".encode("utf-16"))
    assert rows_of(path) == [(1, "José".encode(), "Köln".encode(), None)]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "users.tsv", b'user_id\tcity\n"a\t5" x\n""b\t"c"\n')
    assert rows_of(path) == [(1, b'"a', b'5" x', None), (2, b'""b', b'"c"', None)]


@pytest.mark.parametrize("stray", [b'2,"mug 5\\"",x', b'2,"stray,x'])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stray_quote_swallows_no_line(tmp_path: Path, stray: bytes, end: bytes) -> None:
    lines = [b"user_id,city,x", b"1,plain,x", stray, b"3,c,x", b'4,"quoted",x', b'5,"two' + end + b'lines",x', b"6,f,x"]
    found = rows_of(write(tmp_path / "users.csv", end.join([*lines, b""])))
    assert [row[0] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row[1] for row in found] == [b"1", None, b"3", b"4", b"5", b"6"]
    assert found[4][2] == b"two" + end + b"lines"
    assert found[1][3].startswith("a quote is opened and not closed: 2,")


def test_blanks_after_a_field_of_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "users.csv", b'user_id,city,x\n1,"a\nb" ,x\n2,"c\nd" \t\n')
    assert [row[0] for row in rows_of(path)] == [1, 2]
    assert not any(str(row[-1] or "").startswith("a quote") for row in rows_of(path))


def test_a_quote_that_is_never_closed_costs_its_row_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "users.csv", b'user_id,city\n1,a\n2,"open\n3,c\n4,d\n')
    found = rows_of(path)
    assert [row[0] for row in found] == [1, 2, 3, 4]
    assert [row[1] for row in found] == [b"1", None, b"3", b"4"]
    assert found[1][3] == 'a quote is opened and not closed: 2,"open'


def test_a_quote_that_is_closed_too_far_away_counts_as_never_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TEXT_BLOCK", 16)
    monkeypatch.setattr(tables, "LARGEST_RECORD", 64)
    rows = b"".join(b"%d,c\n" % n for n in range(3, 60))
    path = write(tmp_path / "users.csv", b'user_id,city\n1,a\n2,"open\n' + rows + b'60,"x"\n')
    found = rows_of(path)
    assert [row[0] for row in found] == list(range(1, 61))
    assert [row[1] is None for row in found] == [n == 2 for n in range(1, 61)]


def test_rows_of_other_lengths_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "users.csv", b"user_id,city\n1\n\n2,b\n3,c,d\n4,\n")
    for block in (1, 8, 1000):
        monkeypatch.setattr(tables, "TEXT_BLOCK", block)
        assert rows_of(path) == [
            (1, None, None, "1 fields where the header has 2"),
            (2, b"2", b"b", None),
            (3, None, None, "3 fields where the header has 2"),
            (4, b"4", None, None),
        ]


def test_a_malformed_row_that_is_no_text_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "users.csv", b"user_id,city\n\xaa\xff\nJos\xc3\xa9,b\n3,\xff\n")
    assert rows_of(path) == [
        (1, None, None, "1 fields where the header has 2"),
        (2, "José".encode(), b"b", None),
        (3, b"3", b"\xff", None),
    ]


def test_a_field_of_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "users.csv", b'user_id,city\n1,"' + b"z" * (3 << 20) + b'\n"\n2,b\n')
    found = rows_of(path)
    assert len(found[0][2]) == (3 << 20) + 1
    assert found[1] == (2, b"2", b"b", None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"user_id,city,city\n1,a,b\n", "has the column city twice"),
        (b"city\na\n", "lacks the column user_id; it has city. .* shop.yaml: users.columns"),
        (b"", "lacks the column user_id"),
    ],
)
def test_headers_that_do_not_fit(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "users.csv", data)
    if not data:
        assert rows_of(path) == []  # `find_table` refuses it
        return
    with pytest.raises(ContractError, match=message):
        rows_of(path)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    lines = b"".join(b"%d,%d\n" % (n, n * n) for n in range(1000))
    whole = gzip.compress(b"user_id,city\n" + lines)
    with pytest.raises(ContractError, match=r"users.csv.gz cannot be read .*; is it whole\?"):
        rows_of(write(tmp_path / "users.csv.gz", whole[:-200]))


def test_columns_have_the_names_that_the_schema_says(tmp_path: Path) -> None:
    table = Table(columns=ColumnMapping.from_plain({"user_id": "Kunde", "city": "Kunde"}, ""))
    path = write(tmp_path / "users.csv", b"x,Kunde\n1,a\n")
    assert rows_of(path, table) == [(1, b"a", b"a", None)]
    pq.write_table(pa.table({"Kunde": ["a"], "x": [1]}), tmp_path / "users.parquet")
    assert rows_of(tmp_path / "users.parquet", table) == [(1, "a", "a", None)]


def parquet_layouts(count: int) -> Any:
    """Options of a writer, and a number of rows."""
    rng = np.random.default_rng(0)
    for seed in range(count):
        rows = int(rng.choice([0, 1, 7, 1_000, 60_000], p=[0.02, 0.08, 0.2, 0.4, 0.3]))
        options = {
            "row_group_size": int(rng.choice([1 << 6, 1 << 10, 1 << 14, 1 << 20])) if rows < 2_000 else 1 << 14,
            "data_page_size": int(rng.choice([1 << 6, 1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 23])),
            "dictionary_pagesize_limit": int(rng.choice([1 << 8, 1 << 14, 1 << 20])),
            "use_dictionary": bool(rng.random() < 0.5),
            "compression": str(rng.choice(["none", "snappy", "gzip", "zstd", "lz4", "brotli"])),
            "data_page_version": str(rng.choice(["1.0", "2.0"])),
            "version": str(rng.choice(["1.0", "2.4", "2.6"])),
            "write_batch_size": int(rng.choice([1, 100, 1024])) if rows < 2_000 else 1024,
            "write_page_index": bool(rng.random() < 0.3),
            "store_schema": bool(rng.random() < 0.7),
        }
        yield seed, rows, options


def test_parquet_of_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    for seed, rows, options in parquet_layouts(120):
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, 10 ** int(rng.integers(2, 12)), rows)
        users = pa.array(ids.astype(str)) if seed % 3 else pa.array(ids)
        city = pa.array([None if n % 5 == 0 else "c" * int(n % 90) for n in ids], pa.string())
        extra = pa.array(rng.random(rows))
        pq.write_table(pa.table({"extra": extra, "city": city, "user_id": users}), path, **options)
        found = rows_of(path)
        assert [row[0] for row in found] == list(range(1, rows + 1)), options
        assert [str(row[1]) for row in found] == [str(n) for n in ids], options
        assert [row[2] for row in found] == city.to_pylist(), options


def test_row_groups_are_read_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 1)
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": [str(n) for n in range(25)], "city": ["x"] * 25}), path, row_group_size=10)
    pieces = list(split_file(str(path)))
    assert [(piece.row_groups, piece.first_row) for piece in pieces] == [((0, 1), 1), ((1, 2), 11), ((2, 3), 21)]
    (last,) = tables.read_piece(pieces[2], "users", USERS)
    assert last.rows.tolist() == [21, 22, 23, 24, 25]
    assert last.columns["user_id"].to_pylist() == ["20", "21", "22", "23", "24"]


def test_small_row_groups_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": [str(n) for n in range(55)], "city": ["x"] * 55}), path, row_group_size=10)
    sizes = [pq.read_metadata(path).row_group(group).total_byte_size for group in range(6)]
    monkeypatch.setattr(tables, "PIECE_BYTES", max(sizes) + 1)
    pieces = list(split_file(str(path)))
    assert [(piece.row_groups, piece.first_row) for piece in pieces] == [((0, 2), 1), ((2, 4), 21), ((4, 6), 41)]
    assert [row[1] for row in rows_of(path)] == [str(n) for n in range(55)]
