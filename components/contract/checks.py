"""The row rules of the data contract, a column at a time.

Each `check_*` takes a `TableBatch` and returns `CheckedRows`.  A row is rejected where it means nothing without the
value, or where its text is not valid in the declared encoding.  Another optional value that cannot be read is a missing
one, and counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.columns import matrix_to_lists
from components.contract.schema import Policies, Table
from components.contract.tables import MALFORMED, ContractError, TableBatch
from components.contract.values import (
    EARLIEST,
    LATEST,
    MICROS,
    Parsed,
    is_binary,
    is_list,
    parse_embeddings,
    parse_ids,
    parse_integers,
    parse_lists,
    parse_numbers,
    parse_text,
    parse_times,
    strip_html,
)
from components.metrics import counter
from mim_keras.config import SIGNALS
from serving.representation_center.images import ImageError, normalize_image

ValidRows = dict[str, pa.Array]
RejectedRows = list[dict[str, object]]
FIXES = {
    "is not a time": "declare its form: time, in shop.yaml",
    "is not UTF-8 text": "set the table's encoding in shop.yaml, e.g. cp1252",
    "malformed row": "set the table's delimiter or quoting in shop.yaml, or export it again, a quote in a text doubled",
    "is not in the catalogue": "set policies.unknown_items: drop",
    "is outside 1990 to 2099": "declare its unit: time, in shop.yaml",
}


REPEATED = "the row repeats another one"
INTENT_COLUMNS = ("query_item_id", "query_image", "query_text", "item_id", "signal", "timestamp")
UNREADABLE_EMBEDDING = "is not an embedding of"


class CheckedRows(NamedTuple):
    """What became of the rows of a batch.

    Attributes:
        valid: Columns of the rows that keep the contract, in its types.
        rejected: A record for each row that breaks it: file, row, column, value, reason, fix.
        dropped: How many rows a policy drops, by reason.
        missing: How many optional values cannot be read, by reason.
        noted: How many rows are unusual, and used all the same, by reason.
    """

    valid: ValidRows
    rejected: RejectedRows
    dropped: Counter[str]
    missing: Counter[str]
    noted: Counter[str]


class RowChecker:
    """Keeps, for one batch, which rows are still valid and why the others are not.

    Args:
        batch: The rows.
        table: How its columns are read.
    """

    def __init__(self, batch: TableBatch, table: Table) -> None:
        self._batch, self._table = batch, table
        self._rejected: dict[int, dict[str, object]] = {}
        self._dropped: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self.ok = np.ones(len(batch), bool)
        if MALFORMED in batch.columns:
            found = batch.columns[MALFORMED]
            wrong = found.is_valid().to_numpy(zero_copy_only=False)
            self.reject(wrong, "", "malformed row", lambda i: found[i].as_py())

    def reject(
        self, bad: np.ndarray, column: str, rule: str, value: Callable[[int], object] | None = None, fix: str = ""
    ) -> None:
        """Rejects the rows in `bad` [n] that are still valid; `value` gives what was received in row i."""
        for i in np.flatnonzero(bad & self.ok):
            reason = f"{column} {rule}".strip() if not rule.startswith("no ") else rule
            received = value(int(i)) if value else None
            self._rejected[int(i)] = {
                "column": column,
                "value": _short(received),
                "reason": f"{reason} (received {_short(received)!r})" if value else reason,
                "fix": fix or next((one for what, one in FIXES.items() if what in reason), ""),
            }
        self.ok &= ~bad

    def drop(self, rows: np.ndarray, reason: str) -> None:
        """Drops the rows in `rows` [n] that are still valid."""
        dropped = rows & self.ok
        if dropped.any():
            self._dropped[reason] += int(dropped.sum())
        self.ok &= ~rows

    def miss(self, rows: np.ndarray, reason: str) -> None:
        """Counts values of valid rows that are missing since they cannot be read."""
        if (count := int((rows & self.ok).sum())) > 0:
            self._missing[reason] += count

    def raw(self, name: str) -> pa.Array:
        """Column `name` as found, one value a row; nulls where the file lacks it.

        Raises:
            ContractError: its values are lists, maps or records.
        """
        values = self._batch.columns.get(name)
        if values is None:
            return pa.nulls(len(self._batch), pa.string())
        values = values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values
        if pa.types.is_nested(values.type):
            self._wrong_type(name, values.type, "one value a row")
        return values

    def _wrong_type(self, name: str, found: pa.DataType, wanted: str) -> None:
        raise ContractError(
            f"{self._batch.file}: column {self._table.source(name)} must hold {wanted}; its type is {found}. "
            "Export it as such"
        )

    def _accept(self, name: str, parsed: Parsed, rule: str, required: bool) -> np.ndarray | pa.Array:
        """Rejects rows without a required value; counts optional values that cannot be read."""
        raw = self._batch.columns.get(name)

        def value(i: int) -> object:
            return None if raw is None else _received(raw, i)

        if required:
            self.reject(parsed.missing, name, f"no {name}")
            self.reject(parsed.bad, name, rule, value)
        else:
            self.miss(parsed.bad, f"{name} {rule}")
        return parsed.values

    def text(self, name: str, required: bool = False) -> pa.Array:
        """Column `name` as text, null where it is missing; bytes that are no UTF-8 reject their row."""
        raw = self.raw(name)
        parsed = parse_text(raw)
        self.reject(parsed.bad, name, "is not UTF-8 text", lambda i: repr(_bytes(raw, i)[:50]))
        if required:
            self.reject(parsed.missing, name, f"no {name}")
        return strip_html(parsed.values) if self._table.column(name).html else parsed.values

    def ids(self, name: str, required: bool = True) -> pa.Array:
        """Column `name` as ids; see `parse_ids`."""
        raw = self.raw(name)
        parsed = parse_ids(raw)
        kind = raw.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_binary(kind):
            not_text = parse_text(raw).bad if parsed.bad.any() else parsed.bad
            self.reject(not_text, name, "is not UTF-8 text", lambda i: repr(_bytes(raw, i)[:50]))
        self.reject(parsed.bad, name, "is a fraction or a rounded number, which is no id", lambda i: _received(raw, i))
        if required:
            self.reject(parsed.missing, name, f"no {name}")
        return parsed.values

    def lists(self, name: str) -> pa.Array:
        """Column `name` as texts of values divided by `|`."""
        values = self._batch.columns.get(name)
        if values is not None and is_list(values.type):
            if pa.types.is_nested(values.type.value_type):
                self._wrong_type(name, values.type, "text or lists of text")
            parsed = parse_lists(values)
        else:
            raw = self.raw(name)
            parsed = parse_lists(raw, self._table.column(name).separator)
        self.reject(parsed.bad, name, "is not UTF-8 text")
        return parsed.values

    def integers(self, name: str, required: bool = True) -> np.ndarray:
        """Column `name` as int64 [n]; 0 where it is missing."""
        return np.asarray(self._accept(name, parse_integers(self.raw(name)), "is not a whole number", required))

    def label(self, name: str) -> np.ndarray:
        """Column `name` as 0 or 1, int64 [n]."""
        values = self.integers(name)
        self.reject((values != 0) & (values != 1), name, "is not 0 or 1", lambda i: int(values[i]))
        return values

    def numbers(self, name: str) -> pa.Array:
        """Column `name` as numbers in text, null where there is none."""
        parsed = parse_numbers(self.raw(name), self._table.column(name).decimal)
        values = np.asarray(self._accept(name, parsed, "is not a number", required=False))
        return pa.array(values, mask=parsed.missing | parsed.bad).cast(pa.string())

    def times(self, name: str, required: bool = True) -> np.ndarray:
        """Column `name` as microseconds since 1970, int64 [n]; 0 where it is missing."""
        column = self._table.column(name)
        raw = self.raw(name)
        parsed = parse_times(raw, column.time, column.timezone)
        micros = np.asarray(self._accept(name, parsed, "is not a time", required))
        readable = ~parsed.missing & ~parsed.bad
        outside = readable & ((micros < EARLIEST * MICROS) | (micros >= LATEST * MICROS))
        rule = "is outside 1990 to 2099"
        if required:
            self.reject(outside, name, rule, lambda i: _received(raw, i))
        else:
            outside &= micros != 0
            self.miss(outside, f"{name} {rule}")
        return np.where(readable & ~outside, micros, 0)

    def images(
        self, name: str, paths: list[str | None] | None = None, read: Callable[[str], bytes] | None = None
    ) -> list[bytes]:
        """Column `name` as `normalize_image` gives it; empty where there is none, or none that can be read.

        Args:
            name: Column of encoded pictures.
            paths: For each row without one, where a picture lies, or None.
            read: Reads such a path.
        """
        column = self.raw(name)
        if not (is_binary(column.type) or column.null_count == len(column)):
            self._wrong_type(name, column.type, "the bytes of pictures")
        inline = column.to_pylist()
        pictures = []
        for data, path, ok in zip(inline, paths or [None] * len(inline), self.ok, strict=True):
            pictures.append(self._image(name, data, path, read) if ok and (data or path) else b"")
        return pictures

    def _image(self, name: str, data: bytes | None, path: str | None, read: Callable[[str], bytes] | None) -> bytes:
        try:
            encoded = data or (read(path) if read and path else b"")
        except OSError:
            self._missing["image_path names no file that can be read"] += 1
            return b""
        try:
            picture = normalize_image(encoded)
        except ImageError:
            self._missing[f"{name} cannot be decoded"] += 1
            return b""
        counter("images decoded").inc()
        counter("bytes of images").inc(len(encoded))
        return picture

    def known(self, values: pa.Array, known_items: Collection[str], name: str, policies: Policies) -> None:
        """Drops, counts or rejects rows whose (non-null) value is not an item of the catalogue, as the policy says."""
        plain = values.to_pylist()
        unknown = np.fromiter((v is not None and v not in known_items for v in plain), bool, len(plain))
        if policies.unknown_items == "reject":
            self.reject(unknown, name, "is not in the catalogue", lambda i: plain[i])
        elif policies.unknown_items == "keep":
            self.miss(unknown, f"{name} is not in the catalogue")
        else:
            self.drop(unknown, f"{name} is not in the catalogue")

    def unique(self, values: pa.Array, name: str, others: Collection[tuple[str, int]], policies: Policies) -> None:
        """Drops or rejects rows in `others`, (file, row): another row of the same id is kept in their place."""
        again = np.fromiter(((self._batch.file, int(row)) in others for row in self._batch.rows), bool, len(values))
        if policies.repeated_ids == "reject":
            self.reject(again, name, "appears a second time", lambda i: values[i].as_py())
        else:
            kept = "later" if policies.repeated_ids == "latest" else "earlier"
            self.drop(again, f"a {kept} row has the same {name}")

    def features(self, table: str) -> dict[str, pa.Array]:
        """The features that the schema names beyond the contract's columns, as text, "" where they are missing."""
        read = {"number": self.numbers, "list": self.lists, "categorical": self.feature_text}
        return {name: pc.fill_null(read[kind](name), "") for name, kind in self._table.features(table).items()}

    def embeddings(self) -> dict[str, pa.Array]:
        """The ready-made embeddings that the schema names, lists of float32, zeros where they are missing."""
        found = {}
        for name, column in self._table.embeddings().items():
            raw = self._batch.columns.get(name)
            parsed = parse_embeddings(
                pa.nulls(len(self._batch), pa.string()) if raw is None else raw, column.dim, column.separator
            )
            self.miss(parsed.bad, f"{name} {UNREADABLE_EMBEDDING} {column.dim} numbers")
            found[name] = matrix_to_lists(parsed.values)
        return found

    def feature_text(self, name: str) -> pa.Array:
        """A categorical value; whole numbers as such."""
        raw = self.raw(name)
        return self.text(name) if not pa.types.is_floating(raw.type) else parse_text(raw).values

    def result(self, columns: dict[str, pa.Array | np.ndarray]) -> CheckedRows:
        """What became of the rows; `columns` are those of all rows."""
        keep = pa.array(self.ok)
        valid = {
            name: (pa.array(values) if isinstance(values, np.ndarray) else values).filter(keep)
            for name, values in columns.items()
        }
        rejected: RejectedRows = [
            {"file": self._batch.file, "row": int(self._batch.rows[i]), **self._rejected[i]}
            for i in sorted(self._rejected)
        ]
        return CheckedRows(valid, rejected, self._dropped, self._missing, Counter())


def check_items(
    batch: TableBatch,
    table: Table,
    policies: Policies,
    others: Collection[tuple[str, int]],
    read_image: Callable[[str], bytes],
) -> CheckedRows:
    """Rows of `items`; images are decoded once to prove that they can be.

    Args:
        batch: The rows.
        table: How its columns are read.
        policies: What becomes of repeated ids.
        others: (file, row) of rows in whose place another one of the same id is kept.
        read_image: Reads an `image_path`; raises OSError.
    """
    rows = RowChecker(batch, table)
    item_id = rows.ids("item_id")
    rows.unique(item_id, "item_id", others, policies)
    columns: dict[str, pa.Array | np.ndarray] = {
        "item_id": item_id,
        "title": pc.fill_null(rows.text("title"), ""),
        "text": pc.fill_null(rows.text("text"), ""),
        "category": pc.fill_null(rows.lists("category"), ""),
        "created_at": rows.times("created_at", required=False) // MICROS,
        **rows.features("items"),
        **{name: rows.times(name, required=False) // MICROS for name in table.dates()},
        **rows.embeddings(),
    }
    paths = rows.text("image_path").to_pylist()
    columns["image"] = pa.array(rows.images("image", paths, read_image), pa.binary())
    return rows.result(columns)


def check_impressions(batch: TableBatch, table: Table, policies: Policies, known_items: Collection[str]) -> CheckedRows:
    """Rows of `impressions`, with their context features as text.

    Without a column `sequence`, microseconds order the impressions of a second.
    """
    rows = RowChecker(batch, table)
    user, item = rows.ids("user_id"), rows.ids("item_id")
    micros = rows.times("timestamp")
    clicked = rows.label("clicked")
    sequence = rows.integers("sequence", required=False) if "sequence" in batch.columns else micros % MICROS
    rows.known(item, known_items, "item_id", policies)
    columns = {"user_id": user, "item_id": item, "timestamp": micros // MICROS, "clicked": clicked}
    for name in table.label_columns():
        columns[name] = rows.label(name)
    return rows.result(columns | {"sequence": sequence, **rows.features("impressions")})


def check_intents(
    batch: TableBatch,
    table: Table,
    policies: Policies,
    known_items: Collection[str],
    repeated: Collection[tuple[str, int]] = (),
) -> CheckedRows:
    """Rows of `intents`: some query, the item it led to, the signal; without those in `repeated`, (file, row)."""
    if policies.unknown_items == "keep":  # a pair needs the content of its item
        policies = replace(policies, unknown_items="drop")
    rows = RowChecker(batch, table)
    if repeated:
        rows.drop(np.array([(batch.file, int(row)) in repeated for row in batch.rows], bool), REPEATED)
    item, query_item = rows.ids("item_id"), rows.ids("query_item_id", required=False)
    timestamp = rows.times("timestamp") // MICROS
    text = rows.text("query_text")
    pictures = rows.images("query_image")
    silent = query_item.is_null().to_numpy(zero_copy_only=False) & text.is_null().to_numpy(zero_copy_only=False)
    silent &= np.fromiter((not picture for picture in pictures), bool, len(batch))
    rows.reject(silent, "query_item_id", "no query: query_item_id, query_image and query_text are all empty")
    signal = pc.fill_null(rows.text("signal"), "click")
    wrong = ~pc.is_in(signal, pa.array(SIGNALS)).to_numpy(zero_copy_only=False)
    rows.reject(wrong, "signal", f"is not one of {', '.join(SIGNALS)}", lambda i: signal[i].as_py())
    rows.known(item, known_items, "item_id", policies)
    # Where words or a picture say what was asked for, an unknown query item is a missing value.
    enough = text.is_valid().to_numpy(zero_copy_only=False) | np.fromiter(map(bool, pictures), bool, len(batch))
    lost = enough & ~np.fromiter((one in known_items for one in query_item.to_pylist()), bool, len(batch))
    lost &= query_item.is_valid().to_numpy(zero_copy_only=False)
    rows.miss(lost, "query_item_id is not in the catalogue")
    query_item = pc.if_else(pa.array(lost), None, query_item)
    rows.known(query_item, known_items, "query_item_id", policies)
    return rows.result(
        {
            "query_item_id": pc.fill_null(query_item, ""),
            "query_image": pa.array(pictures, pa.binary()),
            "query_text": pc.fill_null(text, ""),
            "item_id": item,
            "signal": signal,
            "timestamp": timestamp,
        }
    )


def check_users(
    batch: TableBatch, table: Table, policies: Policies, others: Collection[tuple[str, int]]
) -> CheckedRows:
    """Rows of `users`, with their features as text; `others` as in `check_items`."""
    rows = RowChecker(batch, table)
    user = rows.ids("user_id")
    rows.unique(user, "user_id", others, policies)
    return rows.result({"user_id": user, **rows.features("users")})


def _received(values: pa.Array, row: int) -> object:
    """The value of a row, whatever it is; text may hold bytes that are no UTF-8, a time be beyond Python's."""
    try:
        return values[row].as_py()
    except UnicodeDecodeError:
        return _bytes(values, row)
    except (ValueError, OverflowError):
        return str(values[row])


def _bytes(values: pa.Array, row: int) -> bytes:
    found: bytes = values.slice(row, 1).cast(pa.large_binary())[0].as_py()
    return found


def _short(value: object) -> object:
    """As JSON can hold it, and a person read it."""
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return value[:100]
    return (
        value
        if value is None or isinstance(value, bool | int)
        else float(value)
        if isinstance(value, float)
        else str(value)
    )
