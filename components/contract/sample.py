"""The first rows of a table whose columns nobody has declared yet, and how its file is written."""

from __future__ import annotations

import csv
import io
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from charset_normalizer import from_bytes

from components.contract.files import SUFFIXES
from components.contract.tables import PLAIN, ContractError, flat_columns, unpacked, unreadable
from components.contract.values import decode_utf8, parse_ids

SAMPLE_BYTES, SAMPLE_ROWS = 4 << 20, 20_000
DELIMITERS = (",", ";", "\t", "|")
# Encodings of Latin letters, the commonest first, with the letters beyond ASCII of languages that are written in them.
LETTERS = {
    "cp1252": (
        *("äöüß", "éèêëàâçîïôùûüœæ", "áéíóúüñ¿¡", "àèéìòù", "ãõáéíóúâêôàçª", "æøåéö", "äöåé", "ëéïöü"),
        "áðéíóúýþæö",
    ),
    "cp1250": ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîşţ"),
    "cp1254": ("çğıöşüâî",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
}
ENCODINGS = (*LETTERS, "cp1251", "cp1253", "cp1255", "cp1256", "cp932", "gb18030", "big5", "euc_jp", "euc_kr", "koi8_r")
_GUESSED_LINES = 500
NO_TEXT = {b"\x1f\x8b": "gzip (.csv.gz)", b"PK\x03\x04": "a zip or an Excel file", b"PAR1": "Parquet", b"BZh": "bzip2"}


@dataclass
class Sample:
    """The first rows of a table as they lie in a file.

    Attributes:
        path: The file, or a folder of files.
        file: The one that was read.
        columns: By the shop's names.
        options: `delimiter`, `encoding`, `quoting` where they are not the usual ones.
    """

    path: Path
    file: Path
    columns: dict[str, pa.Array]
    options: dict[str, Any] = field(default_factory=dict)

    def distinct(self, name: str) -> pa.Array:
        """Distinct ids of a column."""
        return pc.unique(parse_ids(self.columns[name]).values.drop_null())


def read_sample(path: Path) -> Sample:
    """The first rows of a file; of a folder, of its first file.

    Raises:
        ContractError: there is no such file, or it is of no kind that can be read.
    """
    file = path
    if path.is_dir():
        found = sorted(
            one
            for one in path.rglob("*")
            if one.name.endswith(SUFFIXES)
            and not any(part.startswith((".", "_")) for part in one.relative_to(path).parts)
        )
        if not found:
            raise ContractError(f"{path} holds no file that ends in {', '.join(PLAIN)}")
        file = found[0]
    if not file.is_file():
        raise ContractError(f"{path} is no file and no folder")
    if not file.name.endswith(SUFFIXES):
        raise ContractError(f"{path} must end in {', '.join(PLAIN)}, packed as .gz, .bz2 or .zst or not")
    if file.suffix == ".parquet":
        return _parquet_sample(path, file)
    with file.open("rb") as stream:
        start = stream.read(8)
    for magic, kind in NO_TEXT.items():
        if file.suffix in (".csv", ".tsv", ".txt") and start.startswith(magic):
            raise ContractError(
                f"{file} is {kind} by its first bytes, and no text. Give it that ending, or export it as CSV"
            )
    return _text_sample(path, file)


def _parquet_sample(path: Path, file: Path) -> Sample:
    try:
        with pq.ParquetFile(file) as parquet:
            batch = next(parquet.iter_batches(SAMPLE_ROWS), None)
            if batch is None:
                raise ContractError(f"{file} holds no rows")
            columns = flat_columns(batch)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(str(file), error) from error
    decoded = {n: v.dictionary_decode() if isinstance(v, pa.DictionaryArray) else v for n, v in columns.items()}
    return Sample(path, file, decoded)


def _text_sample(path: Path, file: Path) -> Sample:
    try:
        with file.open("rb") as raw:
            data = unpacked(raw, file.name).read(SAMPLE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(str(file), error) from error
    if not data.strip():
        raise ContractError(f"{file} is empty; export it again")
    if data.lstrip(b"\xef\xbb\xbf")[:4].lower() == b"sep=":
        raise ContractError(f"{file} begins with a line `sep=`, which Excel alone reads; remove that line")
    encoding, text = _decode(data)
    whole = len(data) < SAMPLE_BYTES
    delimiter, quoting, rows = _parse(text if whole else text[: text.rfind("\n") + 1], ".tsv" in file.suffixes)
    options: dict[str, Any] = {}
    if delimiter != ("\t" if ".tsv" in file.suffixes else ","):
        options["delimiter"] = delimiter
    if encoding not in ("utf-8", "utf-8-sig"):
        options["encoding"] = encoding
    if quoting == (".tsv" in file.suffixes):
        options["quoting"] = quoting
    header, body = rows[0], [row for row in rows[1 : SAMPLE_ROWS + 1] if len(row) == len(rows[0])]
    if not body:
        other = f"; the next row has {len(rows[1])} fields, the header {len(header)}" if len(rows) > 1 else ""
        raise ContractError(f"{file} has a header but no rows that fit it: {', '.join(header)[:200]}{other}")
    columns = {
        name: pa.array([row[index] or None for row in body], pa.string()) for index, name in enumerate(header) if name
    }
    return Sample(path, file, columns, options)


def _decode(data: bytes) -> tuple[str, str]:
    """(Encoding, text) of the start of a file."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", data[: len(data) // 2 * 2].decode("utf-16", errors="replace")
    for index, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) > 8 and not any(data[index:200:2]) and all(data[1 - index : 200 : 2]):
            return name, data[: len(data) // 2 * 2].decode(name, errors="replace")
    lines = data.splitlines()
    broken = [line for line in lines[:-1] if decode_utf8(line) is None]  # the last may be cut in two
    few = len(broken) <= 0.01 * len(lines) or len(broken) <= 1 < len(lines) / 20
    if not broken or (few and broken[0] is not lines[0]):  # a header must be read right
        return "utf-8", data.decode("utf-8-sig", errors="replace")
    encoding = _guess_encoding(b"\n".join(broken[:_GUESSED_LINES]))
    return encoding, data.decode(encoding, errors="replace")


def _guess_encoding(data: bytes) -> str:
    """The encoding of lines that are not UTF-8."""
    possible = [name for name in ENCODINGS if _can_decode(data, name)] or list(ENCODINGS)
    for name in ("cp932", "euc_jp"):  # kana do not come by chance
        if name in possible and len(re.findall(r"[\u3041-\u30ff]", data.decode(name))) > 0.1 * len(data.decode(name)):
            return name
    best = from_bytes(data, cp_isolation=possible).best()
    guess = possible[0] if best is None else best.encoding
    if guess not in LETTERS or guess not in possible:
        return guess
    # These share most letters, and a detector takes one for the other: the language that knows most of them decides.
    latin = [name for name in LETTERS if name in possible]
    known = {name: max(_known_letters(data, name, letters) for letters in LETTERS[name]) for name in latin}
    equal = [name for name in latin if known[name] == max(known.values())]
    return "cp1257" if guess == "cp1257" in equal else equal[0]


def _can_decode(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _known_letters(data: bytes, encoding: str, letters: str) -> float:
    """Share of the letters beyond ASCII beside another letter, and of signs before one, that a language has."""
    text = data.decode(encoding, errors="replace").lower()
    found = re.findall(r"(?<=[a-z])[^\x00-\x7f]|[^\x00-\x7f](?=[a-z])", text)
    inside = re.findall(r"(?<=[a-z])[^\x00-\x7f](?=[a-z])", text)  # where a raised 2 has no place
    found = [one for one in found if not one.isnumeric()] + [one for one in inside if one.isnumeric()]
    return sum(one in letters for one in found) / max(len(found), 1)


def _parse(text: str, is_tsv: bool) -> tuple[str, bool, list[list[str]]]:
    """(Delimiter, whether quotes quote, rows): what gives the most columns in rows of one length."""
    best: tuple[float, str, bool, list[list[str]]] | None = None
    for delimiter in DELIMITERS:
        for quoting in (False, True) if delimiter == "\t" else (True,):
            style: dict[str, Any] = {} if quoting else {"quoting": csv.QUOTE_NONE}
            csv.field_size_limit(1 << 30)
            try:
                rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **style) if row]
            except csv.Error:
                continue
            fits = float(np.mean([len(row) == len(rows[0]) for row in rows])) if rows else 0.0
            quoted = not quoting and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for row in rows for cell in row)
            score = (len(rows[0]) - 1) * fits**4 - 0.01 * quoted if rows else 0.0
            if best is None or score > best[0]:
                best = (score, delimiter, quoting, rows)
    if best is None or not best[3]:
        raise ContractError("no delimiter among , ; tab | gives rows of one length")
    if best[0] <= 0:  # a single column
        rows = [[line] for line in text.splitlines() if line]
        return ("\t" if is_tsv else ","), not is_tsv, rows
    return best[1], best[2], best[3]
