"""The row rules of the data contract, a column at a time.

Each `check_*` takes a `TableBatch` and returns the rows that keep the contract, in its types, and the rows
that break it, each with the first rule it broke.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from components.contract.tables import MALFORMED, ContractError, TableBatch
from components.metrics import counter
from mim_keras.config import SIGNALS

# Seconds since 1970 that a shop can mean: 1990 to 2100.
EARLIEST, LATEST = 631_152_000, 4_102_444_800

Good = dict[str, pa.Array]
Rejects = list[dict[str, object]]


class RowChecker:
    """Keeps, for one batch, which rows are still good and why the others are not."""

    def __init__(self, batch: TableBatch) -> None:
        self._batch = batch
        self._reasons: list[str | None] = [None] * len(batch)
        self.ok = np.ones(len(batch), bool)
        if MALFORMED in batch.columns:
            for i, what in enumerate(batch.columns[MALFORMED].to_pylist()):
                if what is not None:
                    self.reject(np.arange(len(batch)) == i, "malformed row", _constant(what))

    def reject(self, bad: np.ndarray, reason: str, detail: Callable[[int], object] | None = None) -> None:
        """Marks the rows in `bad` [n] that are still good; `detail` gives what was received in row i."""
        for i in np.flatnonzero(bad & self.ok):
            self._reasons[i] = f"{reason} (received {detail(int(i))!r})" if detail else reason
        self.ok &= ~bad

    def column(self, name: str, kind: pa.DataType) -> pa.Array:
        """Column `name`, or nulls where the file lacks it."""
        return self._batch.columns.get(name, pa.nulls(len(self._batch), kind))

    def strings(self, name: str) -> pa.Array:
        """Column `name` as text; empty text counts as missing, and bytes that are no UTF-8 reject their row."""
        values = pc.utf8_trim_whitespace(self._text(name))
        return pc.if_else(pc.equal(values, ""), None, values)

    def _text(self, name: str) -> pa.Array:
        """Column `name` as it reads, whatever plain type it has."""
        values = self._plain(name, self.column(name, pa.string()))
        text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        if not (text or _is_binary(values.type)):
            return values.cast(pa.string())
        try:  # through bytes, since a file may call text what is none
            return values.cast(pa.large_binary()).cast(pa.large_string()).cast(pa.string())
        except pa.ArrowInvalid:
            raw = values.cast(pa.large_binary()).to_pylist()
            read = [_decoded(value) for value in raw]
            bad = np.array([own is None and value is not None for own, value in zip(read, raw, strict=True)])
            self.reject(bad, f"{name} is not UTF-8 text", lambda i: repr(raw[i][:50]))
            return pa.array(read, pa.string())

    def _plain(self, name: str, values: pa.Array) -> pa.Array:
        """`values`, which have one value a row.

        Raises:
            ContractError: they have lists, maps or records.
        """
        if isinstance(values, pa.DictionaryArray):
            values = values.dictionary_decode()
        if pa.types.is_nested(values.type):
            self._wrong_type(name, values.type, "one value a row")
        return values

    def _wrong_type(self, name: str, found: pa.DataType, wanted: str) -> None:
        raise ContractError(
            f"{self._batch.file}: column {name} must hold {wanted}; its type is {found}. Export it as such"
        )

    def required_strings(self, name: str) -> pa.Array:
        """As `strings`; a row without a value is rejected."""
        values = self.strings(name)
        self.reject(values.is_null().to_numpy(zero_copy_only=False), f"no {name}")
        return values

    def unique_strings(self, name: str, repeated: Collection[tuple[str, int]]) -> pa.Array:
        """As `required_strings`; a row that is in `repeated`, by file and number, is rejected."""
        values, among = self.required_strings(name), set(repeated)
        again = np.fromiter(((self._batch.file, int(row)) in among for row in self._batch.rows), bool, len(values))
        self.reject(again, f"{name} appears a second time", lambda i: values[i].as_py())
        return values

    def integers(self, name: str, required: bool = True, default: int = 0) -> np.ndarray:
        """Column `name` as int64 [n]; a value that is no whole number rejects its row."""
        raw = self._plain(name, self.column(name, pa.int64()))
        missing = raw.is_null().to_numpy(zero_copy_only=False)
        if required:
            self.reject(missing, f"no {name}")
        if pa.types.is_timestamp(raw.type):
            raw = raw.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        if pa.types.is_boolean(raw.type):
            raw = raw.cast(pa.int64())
        if pa.types.is_integer(raw.type):
            numbers = pc.fill_null(raw, default).cast(pa.int64(), safe=False)
            bad = np.zeros(len(missing), bool)
        elif pa.types.is_floating(raw.type):  # what becomes of whole numbers where some are missing
            values = pc.fill_null(raw, default).cast(pa.float64()).to_numpy(zero_copy_only=False)
            whole_ones = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2**53)
            numbers = pa.array(np.where(whole_ones, values, default).astype(np.int64))
            bad = ~missing & ~whole_ones
        else:
            text = self._text(name)
            whole = pc.fill_null(
                pc.match_substring_regex(pc.utf8_trim_whitespace(text), r"^[+-]?\d{1,18}(\.0*)?$"), False
            )
            digits = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), r"^\+|\.0*$", "")
            numbers = pc.fill_null(pc.if_else(whole, digits, None).cast(pa.int64()), default)
            bad = ~missing & ~whole.to_numpy(zero_copy_only=False)
        self.reject(bad, f"{name} is not a whole number", lambda i: raw[i].as_py())
        return numbers.to_numpy(zero_copy_only=False)

    def times(self, name: str, required: bool = True) -> np.ndarray:
        """Column `name` as seconds since 1970, int64 [n], in the range a shop can mean."""
        seconds = self.integers(name, required, default=0)
        outside = (seconds < EARLIEST) | (seconds >= LATEST)
        if not required:
            outside &= seconds != 0
        self.reject(outside, f"{name} is outside 1990 to 2100 in seconds", lambda i: int(seconds[i]))
        return seconds

    def pictures(
        self, name: str, paths: list[str | None] | None = None, read: Callable[[str], bytes] | None = None
    ) -> list[bytes]:
        """Column `name` as JPEG or PNG, empty where there is none; one that cannot be decoded rejects its row.

        Args:
            name: Column of encoded pictures.
            paths: For each row without one, where a picture lies, or None.
            read: Reads such a path.
        """
        column = self._plain(name, self.column(name, pa.binary()))
        if not (_is_binary(column.type) or column.null_count == len(column)):
            self._wrong_type(name, column.type, "the bytes of pictures")
        inline = column.to_pylist()
        pictures = []
        for i, (data, path) in enumerate(zip(inline, paths or [None] * len(inline), strict=True)):
            picture = b""
            if self.ok[i] and (data or path):
                try:
                    encoded = data or (read(path) if read and path else b"")
                    picture = as_jpeg_or_png(encoded)
                    counter("images decoded").inc()
                    counter("bytes of images").inc(len(encoded))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    reason = f"{name} cannot be decoded: {_first_line(error)}"
                    self.reject(np.arange(len(inline)) == i, reason, _constant(path) if path and not data else None)
            pictures.append(picture)
        return pictures

    def known(self, values: pa.Array, known_items: Collection[str], what: str) -> None:
        """Rejects rows whose (non-null) value is not an item of the catalogue."""
        plain = values.to_pylist()
        unknown = np.fromiter((v is not None and v not in known_items for v in plain), bool, len(plain))
        self.reject(unknown, f"{what} is not in the catalogue", lambda i: plain[i])

    def result(self, columns: dict[str, pa.Array | np.ndarray]) -> tuple[Good, Rejects]:
        """The good rows of `columns`, and a record for each rejected row."""
        keep = pa.array(self.ok)
        good = {
            name: (pa.array(values) if isinstance(values, np.ndarray) else values).filter(keep)
            for name, values in columns.items()
        }
        rejects: Rejects = [
            {"file": self._batch.file, "row": int(self._batch.rows[i]), "reason": self._reasons[i]}
            for i in np.flatnonzero(~self.ok)
        ]
        return good, rejects


def check_items(
    batch: TableBatch, repeated: Collection[tuple[str, int]], read_image: Callable[[str], bytes]
) -> tuple[Good, Rejects]:
    """Rows of `items`; images are decoded once to prove that they can be.

    Args:
        batch: The rows.
        repeated: (file, row) of rows whose `item_id` an earlier row already has.
        read_image: Reads an `image_path`.
    """
    rows = RowChecker(batch)
    item_id = rows.unique_strings("item_id", repeated)
    created = rows.times("created_at", required=False)
    pictures = rows.pictures("image", rows.strings("image_path").to_pylist(), read_image)
    return rows.result(
        {
            "item_id": item_id,
            "title": pc.fill_null(rows.strings("title"), ""),
            "text": pc.fill_null(rows.strings("text"), ""),
            "category": pc.fill_null(rows.strings("category"), ""),
            "image": pa.array(pictures, pa.binary()),
            "created_at": created,
        }
    )


def check_impressions(
    batch: TableBatch, known_items: Collection[str], context: tuple[str, ...]
) -> tuple[Good, Rejects]:
    """Rows of `impressions`, with the columns named in `context` as text."""
    rows = RowChecker(batch)
    user, item = rows.required_strings("user_id"), rows.required_strings("item_id")
    timestamp = rows.times("timestamp")
    clicked = rows.integers("clicked")
    rows.reject((clicked != 0) & (clicked != 1), "clicked is not 0 or 1", lambda i: int(clicked[i]))
    sequence = rows.integers("sequence", required=False)
    rows.known(item, known_items, "item_id")
    columns = {"user_id": user, "item_id": item, "timestamp": timestamp, "clicked": clicked, "sequence": sequence}
    return rows.result(columns | {name: pc.fill_null(rows.strings(name), "") for name in context})


def check_intents(batch: TableBatch, known_items: Collection[str]) -> tuple[Good, Rejects]:
    """Rows of `intents`: some query, the item it led to, the signal."""
    rows = RowChecker(batch)
    item, query_item = rows.required_strings("item_id"), rows.strings("query_item_id")
    timestamp = rows.times("timestamp")
    text = rows.strings("query_text")
    pictures = rows.pictures("query_image")
    silent = (query_item.is_null().to_numpy(zero_copy_only=False)) & text.is_null().to_numpy(zero_copy_only=False)
    silent &= np.fromiter((not picture for picture in pictures), bool, len(batch))
    rows.reject(silent, "no query: query_item_id, query_image and query_text are all empty")
    signal = pc.fill_null(rows.strings("signal"), "click")
    wrong = ~pc.is_in(signal, pa.array(SIGNALS)).to_numpy(zero_copy_only=False)
    rows.reject(wrong, f"signal is not one of {', '.join(SIGNALS)}", lambda i: signal[i].as_py())
    rows.known(item, known_items, "item_id")
    rows.known(query_item, known_items, "query_item_id")
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
    batch: TableBatch, repeated: Collection[tuple[str, int]], profile: tuple[str, ...]
) -> tuple[Good, Rejects]:
    """Rows of `users`, with the columns named in `profile` as text.

    Args:
        batch: The rows.
        repeated: (file, row) of rows whose `user_id` an earlier row already has.
        profile: Further columns.
    """
    rows = RowChecker(batch)
    user = rows.unique_strings("user_id", repeated)
    return rows.result({"user_id": user} | {name: pc.fill_null(rows.strings(name), "") for name in profile})


def as_jpeg_or_png(data: bytes) -> bytes:
    """`data` if it is an RGB or grey JPEG or PNG that decodes whole; else the same picture as an RGB PNG.

    Raises:
        OSError, ValueError: it is no picture, or a broken one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except Image.DecompressionBombWarning as bomb:
            raise ValueError(str(bomb)) from bomb
    if picture.format in ("JPEG", "PNG") and picture.mode in ("RGB", "L"):
        return data
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _constant(value: object) -> Callable[[int], object]:
    return lambda _: value


def _first_line(error: BaseException) -> str:
    # Pillow names the in-memory stream with its address, which differs in every run.
    text = str(error) or type(error).__name__
    return text.splitlines()[0].split(" <_io.BytesIO")[0]
