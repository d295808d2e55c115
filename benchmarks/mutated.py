"""Tables and pictures that are broken in every way: no crash, no hang, and every row used or rejected.

    mim bench mutated

Good tables of items, impressions, intents and users are written as CSV, TSV, packed CSV and Parquet; then bytes are
changed, cut and doubled; or whole columns get other types, or values that nobody expects; or the pictures are broken,
beside the tables or in a zip.  Each input is read and checked by what CatalogueGen, ImpressionGen, PairGen and
HistoryGen read and check with.  It must end in `ContractError`, or in rows of which as many come out as go in.  Inputs
are tried in processes of their own, which end when one takes longer than its time.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import publish

INPUTS, SECONDS, SHARE = 10_000, 20.0, 250
ITEM_IDS = [f"i{n}" for n in range(20)]
T0 = 1_700_000_000


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--first", type=int, default=0, help="Number of the first, which seeds it.")
    arguments = parser.parse_args(words)
    found = run(range(arguments.first, arguments.first + arguments.inputs))
    publish("mutated", found["inputs"], "inputs", arguments.inputs, found, met=not found["wrong"])


def run(numbers: range) -> dict[str, Any]:
    """Examines the inputs of these numbers, each share of them in a process."""
    outcomes: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    context = multiprocessing.get_context("spawn")
    place = numbers.start
    while place < numbers.stop:
        answers = context.Queue()
        share = range(place, min(place + SHARE, numbers.stop))
        process = context.Process(target=_examine_share, args=(share, answers), daemon=True)
        process.start()
        while place < share.stop:
            answer = _next(answers, process)
            if answer is None:
                wrong.append(f"input {place}: {'no end within' if process.is_alive() else 'crash;'} {SECONDS:.0f} s")
                process.kill()
                place += 1
                break
            outcome, seconds, counted = answer
            outcomes[outcome.split(": ")[0]] += 1
            slowest = max(slowest, seconds)
            rows.update(counted)
            if outcome.startswith("wrong"):
                wrong.append(f"input {place}: {outcome}")
            place += 1
        process.join(10)
    counts = {"inputs": len(numbers), "outcomes": dict(outcomes), "rows": dict(rows), "slowest_s": round(slowest, 2)}
    return {**counts, "wrong": wrong}


def _next(answers: Any, process: Any) -> Any:
    """The next answer; None when the process dies, or thinks too long."""
    patience = SECONDS + (30 if answers.empty() else 0)  # a new process imports first
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            return answers.get(timeout=0.2)
        if not process.is_alive() and answers.empty():
            return None
    return None


def _examine_share(share: range, answers: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        for number in share:
            folder = Path(name) / str(number)
            folder.mkdir()
            started = time.monotonic()
            outcome, counted = examine(number, folder)
            answers.put((outcome, time.monotonic() - started, counted))


# -- one input -------------------------------------------------------------------------------------------------


def examine(number: int, folder: Path) -> tuple[str, dict[str, int]]:
    """(what became of input `number`, its rows); an outcome that begins with `wrong` is a fault."""
    import pyarrow.parquet as pq

    from components.contract.files import find_table
    from components.contract.tables import ContractError, read_file

    chance = random.Random(number)
    way = chance.choice(WAYS)
    table = chance.choice(["items", "intents"] if way is broken_pictures else list(TABLES))
    try:
        way(chance, table, folder)
    except UnusableError:
        return "could not be made", {}
    counted: Counter[str] = Counter()
    try:
        check = checker(table, folder)
        columns = schema_of(table).table(table)
        for path in find_table(str(folder), table, columns):
            last = 0
            for batch in read_file(path, table, columns):
                if batch.rows.tolist() != list(range(last + 1, last + 1 + len(batch))):
                    return f"wrong: rows {last + 1} and on of {way.__name__} {table} are numbered otherwise", {}
                last += len(batch)
                checked = check(batch)
                rejects, dropped = checked.rejected, sum(checked.dropped.values())
                sizes = {len(values) for values in checked.valid.values()}
                if sizes != {len(batch) - len(rejects) - dropped}:
                    what = f"{len(batch)} rows, {len(rejects)} rejected, {dropped} dropped, {sizes} used"
                    return f"wrong: {way.__name__} {table}: {what}", {}
                for reject in rejects:
                    if not reject["reason"] or json.loads(json.dumps(reject)) != reject:
                        return f"wrong: {way.__name__} {table}: a row is rejected as {reject}", {}
                used = len(batch) - len(rejects) - dropped
                counted.update({"in": len(batch), "rejected": len(rejects), "dropped": dropped, "used": used})
            if path.endswith(".parquet") and last != (counts := pq.read_metadata(path).num_rows):
                return f"wrong: {last} of {counts} rows were read of {way.__name__} {table}", {}
    except ContractError as error:
        if not str(error):
            return "wrong: an error without a word", {}
        return "stopped by ContractError", dict(counted)
    except Exception as error:
        return f"wrong: {way.__name__} {table}: {type(error).__name__}: {str(error)[:300]}", {}
    return "rows rejected" if counted["rejected"] else "all rows used", dict(counted)


def checker(table: str, folder: Path) -> Callable[[Any], Any]:
    """What checks a batch of the table, as the components do."""
    from components.contract import checks
    from components.contract.events import check_events
    from components.contract.image_files import ImageFiles

    schema = schema_of(table)
    policies, columns = schema.policies, schema.table(table)
    if table == "items":
        images = ImageFiles(str(folder))
        return lambda batch: checks.check_items(batch, columns, policies, (), images.read)
    if table == "users":
        return lambda batch: checks.check_users(batch, columns, policies, ())
    check: Any = {
        "impressions": checks.check_impressions,
        "events": check_events,
        "intents": checks.check_intents,
    }[table]
    return lambda batch: check(batch, columns, policies, set(ITEM_IDS))


# -- good tables -----------------------------------------------------------------------------------------------


def schema_of(table: str) -> Any:
    """The schema of the tables, with features in each."""
    from components.contract.schema import Schema

    log = "events" if table == "events" else "impressions"
    return Schema.from_yaml(
        f"""
        items: {{columns: {{brand: brand, price: {{column: price, type: number}}, text: {{column: text, html: true}}}}}}
        {log}: {{columns: {{page: page}}}}
        users: {{columns: {{city: city}}}}
        """
    )


class UnusableError(Exception):
    """This number makes no input."""


def _items(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "item_id": item,
            "title": f"title {item}",
            "text": f"<p>{item}</p>",
            "category": "a|b",
            "image": picture(chance),
            "created_at": T0,
            "brand": chance.choice("xyz"),
            "price": chance.choice(["1.50", "12 EUR", "€3"]),
        }
        for item in ITEM_IDS
    ]


def _impressions(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {"user_id": f"u{n % 3}", "item_id": chance.choice(ITEM_IDS), "timestamp": T0 + n, "clicked": n % 2, "page": "p"}
        for n in range(40)
    ]


def _events(chance: random.Random) -> list[dict[str, Any]]:
    kinds = ["view", "view", "click", "order"]
    return [
        {
            "user_id": f"u{n % 3}",
            "item_id": chance.choice(ITEM_IDS),
            "timestamp": 1_000 * (T0 + n),
            "event": chance.choice(kinds),
            "page": "p",
        }
        for n in range(40)
    ]


def _intents(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {"query_text": f"words {n}", "item_id": chance.choice(ITEM_IDS), "signal": "cart", "timestamp": T0 + n}
        for n in range(20)
    ]


def _users(chance: random.Random) -> list[dict[str, Any]]:
    return [{"user_id": f"u{n}", "city": chance.choice("abc")} for n in range(20)]


TABLES = {"items": _items, "impressions": _impressions, "events": _events, "intents": _intents, "users": _users}


def picture(chance: random.Random) -> bytes:
    """A small picture of one of four kinds."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.new(chance.choice(["RGB", "L", "RGBA"]), (8, 6), chance.randrange(255))
    kind = chance.choice(["PNG", "JPEG", "WEBP", "GIF"])
    image.convert("RGB" if kind == "JPEG" else image.mode).save(buffer, kind)
    return buffer.getvalue()


# -- ways to break them ----------------------------------------------------------------------------------------


def bytes_of_text(chance: random.Random, table: str, folder: Path) -> None:
    """CSV, TSV or gzipped CSV with bytes changed."""
    import csv

    suffix = chance.choice([".csv", ".tsv", ".csv.gz", ".csv.bz2", ".csv.zst"])
    rows = [{name: value for name, value in row.items() if name != "image"} for row in TABLES[table](chance)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    inside = chance.random() < 0.5  # before it is packed
    data = mutated(chance, data) if inside else data
    data = packed(data, suffix)
    (folder / f"{table}{suffix}").write_bytes(data if inside else mutated(chance, data))


def bytes_of_parquet(chance: random.Random, table: str, folder: Path) -> None:
    """Parquet with bytes changed."""
    path = folder / f"{table}.parquet"
    _parquet(TABLES[table](chance), path, chance.choice(["snappy", "none", "zstd", "gzip"]))
    path.write_bytes(mutated(chance, path.read_bytes()))


def other_types(chance: random.Random, table: str, folder: Path) -> None:
    """Parquet whose columns have types that nobody expects."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pylist(TABLES[table](chance))
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(made.column_names)
        column = chance.choice(list(_columns(chance, len(made))))
        made = made.set_column(made.column_names.index(name), name, column)
    try:
        pq.write_table(made, folder / f"{table}.parquet")
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise UnusableError from error


def other_values(chance: random.Random, table: str, folder: Path) -> None:
    """CSV of values that nobody expects."""
    import csv

    rows = [{name: value for name, value in row.items() if name != "image"} for row in TABLES[table](chance)]
    for row in rows:
        if chance.random() < 0.5:
            row[chance.choice(list(row))] = chance.choice(VALUES)
    with (folder / f"{table}.csv").open("w", newline="", errors="surrogateescape") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def broken_pictures(chance: random.Random, table: str, folder: Path) -> None:
    """Pictures with bytes changed: in the table, beside it, or in a zip."""
    column = "image" if table == "items" else "query_image"
    rows = TABLES[table](chance)
    where = chance.choice(["table", "files", "zip"] if table == "items" else ["table"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for place, row in enumerate(rows):
            data = mutated(chance, picture(chance)) if chance.random() < 0.5 else picture(chance)
            row[column] = data if where == "table" else None
            if where != "table":
                row["image_path"] = f"{place}.png"
                (folder / f"{place}.png").write_bytes(data) if where == "files" else zipped.writestr(
                    f"{place}.png", data
                )
    if where == "zip":
        data = archive.getvalue()
        (folder / "images.zip").write_bytes(mutated(chance, data) if chance.random() < 0.5 else data)
    _parquet(rows, folder / f"{table}.parquet", "none")


WAYS = (bytes_of_text, bytes_of_parquet, other_types, other_values, broken_pictures)
VALUES: tuple[Any, ...] = (
    "", " ", "nan", "NaN", "inf", "-1", "1e308", "9" * 30, "1.5", "0x10", "٣", "１", "\x00", "\udcff", "a\nb", '"', "'",
    ",", "null", "None", "true", "TRUE", "1970-01-01", "-0", "+1", "1.0", "1.", ".5", "\ufeff", "é" * 3_000, " i1",
)  # fmt: skip


def _columns(chance: random.Random, rows: int) -> Iterator[Any]:
    """Columns of all sorts of types."""
    import datetime
    import decimal

    import pyarrow as pa

    numbers = [chance.choice([None, 0, 1, -1, T0, 2**31, 2**63 - 1]) for _ in range(rows)]
    yield pa.array(numbers, pa.int64())
    yield pa.array([None if n is None else abs(n) % 256 for n in numbers], pa.uint8())
    yield pa.array([2**64 - 1 if n else n for n in numbers], pa.uint64())
    yield pa.array([chance.choice([None, 0.0, 1.0, 0.5, float("nan"), float("inf"), 1e300]) for _ in numbers])
    yield pa.array([chance.choice([None, True, False]) for _ in numbers])
    yield pa.array([chance.choice([None, b"", b"i1", b"\xff\xfe", b"\x00" * 50]) for _ in numbers], pa.binary())
    yield pa.array([chance.choice([None, b"i1", b"\xff\xfe"]) for _ in numbers], pa.large_binary())
    yield pa.array([chance.choice([None, "i1", "", "é", "x" * 1_000]) for _ in numbers], pa.large_string())
    yield pa.array([chance.choice([None, "i1", "u1"]) for _ in numbers]).dictionary_encode()
    yield pa.array([chance.choice([None, ["i1"], [], ["i1", None]]) for _ in numbers], pa.list_(pa.string()))
    yield pa.array([chance.choice([None, {"a": 1}]) for _ in numbers], pa.struct([("a", pa.int64())]))
    yield pa.array([chance.choice([None, [("a", 1)]]) for _ in numbers], pa.map_(pa.string(), pa.int64()))
    yield pa.array([chance.choice([None, decimal.Decimal("1.5"), decimal.Decimal(T0)]) for _ in numbers])
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5)
    yield pa.array([chance.choice([None, moment]) for _ in numbers], pa.timestamp("us"))
    yield pa.array([chance.choice([None, moment]) for _ in numbers], pa.timestamp("ns", "Asia/Tokyo"))
    yield pa.array([chance.choice([None, moment.date()]) for _ in numbers], pa.date32())
    yield pa.array([chance.choice([None, moment.time()]) for _ in numbers], pa.time64("us"))
    yield pa.array([chance.choice([None, datetime.timedelta(days=1)]) for _ in numbers], pa.duration("s"))
    yield pa.nulls(rows)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """A bit or a few bytes changed; a piece cut out, doubled, or put in; the end cut off."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(made) + 1)
        end = min(len(made), start + chance.randint(1, 24))
        match chance.randrange(8):
            case 0:
                made[start:end] = chance.randbytes(end - start)
            case 1:
                del made[start:end]
            case 2:
                made[start:start] = made[start:end]
            case 3:
                made[start:start] = chance.randbytes(chance.randint(1, 20))
            case 4 if chance.random() < 0.3:
                del made[start:]
            case _ if made:
                made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def packed(data: bytes, suffix: str) -> bytes:
    """As the suffix says."""
    import bz2

    import pyarrow as pa

    if suffix.endswith(".gz"):
        return gzip.compress(data)
    if suffix.endswith(".bz2"):
        return bz2.compress(data)
    return pa.compress(data, "zstd", asbytes=True) if suffix.endswith(".zst") else data


def _parquet(rows: list[dict[str, Any]], path: Path, compression: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, compression=compression)


if __name__ == "__main__":
    main()
