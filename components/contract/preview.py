"""Tries the whole data contract on the first rows of a folder, in seconds: what a run would find."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.columns import Columns, concatenate, lists_to_matrix, take
from components.contract import checks
from components.contract.checks import REPEATED, UNREADABLE_EMBEDDING, CheckedRows
from components.contract.counts import rule_of
from components.contract.events import check_events, impressions_of_users
from components.contract.files import ALL_SPANS, Spans, find_table, load_schema
from components.contract.image_files import ImageFiles
from components.contract.repeated import merge_repeated
from components.contract.schema import Schema, Table
from components.contract.tables import ContractError, TableBatch, read_file
from components.contract.values import always_clicked, parse_ids
from components.splits import split_by_time, time_boundaries
from mim_keras.config import ConfigError

ROWS, IMAGES, SECONDS = 100_000, 300, 2.0  # of each table: rows and pictures that are tried, and time that it takes
SPLITS = ("train", "valid", "test")


@dataclass
class TablePreview:
    """What the first rows of a table hold.

    Attributes:
        name: Of the table.
        files: Its files.
        rows: How many rows were tried.
        whole: Whether these are all.
        total: Rows of the table, where its files say so; else None.
        valid: Columns of the rows that keep the contract.
        rejected, dropped, missing: Rows and values by reason.
        examples: One rejected row of each reason.
        images_tried: How many rows were looked through for a picture.
    """

    name: str
    files: list[str]
    rows: int = 0
    whole: bool = True
    total: int | None = None
    valid: Columns = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    examples: dict[str, dict[str, object]] = field(default_factory=dict)
    images_tried: int = 0

    @property
    def used(self) -> int:
        """Rows that a run would use."""
        return len(next(iter(self.valid.values()), ()))


@dataclass
class Preview:
    """What a folder holds.

    Attributes:
        data: The folder.
        schema: Of its tables.
        tables: By name.
        lines: Of the report.
        problems: What would stop a run.
        warnings: What would not, and is likely to be a mistake.
    """

    data: str
    schema: Schema
    tables: dict[str, TablePreview] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The whole report as text."""
        parts = [*self.lines]
        parts += [f"warning: {one}" for one in self.warnings]
        parts += [f"problem: {one}" for one in self.problems]
        parts.append("a run would stop here" if self.problems else "a run would take this")
        return "\n".join(parts)


def preview_folder(
    data: str,
    split_by: str = "time",
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1),
    max_rejected_fraction: float = 0.01,
    spans: Spans = ALL_SPANS,
    rows: int = ROWS,
) -> Preview:
    """Reads and checks the first rows of each table in `data`, as a run does.

    Args:
        data: Folder of the tables.
        split_by, fractions, max_rejected_fraction: See `DataConfig`.
        spans: Which folders of the log are read.
        rows: How many rows of each table are tried.
    """
    try:
        schema = load_schema(data)
    except ConfigError as error:
        return Preview(data, Schema(), problems=[str(error)])
    found = Preview(data, schema)
    try:
        items, known = _items(data, schema, spans, rows)
        found.tables["items"] = items
        found.lines += _item_lines(items, schema)
        log = _log(data, schema, known, spans, rows)
        found.tables[log.name] = log
        found.lines += _table_lines(log)
        _find_problems_of_log(found, log, split_by, fractions)
        for name in ("intents", "users"):
            if files := find_table(data, name, schema.table(name), spans):
                table = _other(name, files, schema, known, rows)
                found.tables[name] = table
                found.lines += _table_lines(table)
        if schema.users.features("users") and "users" not in found.tables:
            found.problems.append("shop.yaml names features in users.columns, but there is no table `users`")
    except ContractError as error:
        found.problems.append(str(error))
    for table in found.tables.values():
        _find_problems(found, table, max_rejected_fraction)
    return found


def _items(data: str, schema: Schema, spans: Spans, rows: int) -> tuple[TablePreview, set[str]]:
    files = find_table(data, "items", schema.items, spans)
    images = ImageFiles(data, schema.images)
    preview = TablePreview("items", files, total=_total(files))
    parts: list[CheckedRows] = []
    for batch in _limited(preview, _batches(files, "items", schema.items), rows):
        if preview.images_tried >= IMAGES:
            batch.columns.pop("image", None)
            batch.columns.pop("image_path", None)
        else:
            preview.images_tried += len(batch)
        parts.append(checks.check_items(batch, schema.items, schema.policies, (), images.read))
    _add(preview, parts)
    known = _known_ids(files, schema) if not preview.whole else set()
    if preview.used and preview.whole:
        known = set(preview.valid["item_id"].to_pylist())
    _drop_repeated(preview, "item_id", schema)
    return preview, known


def _drop_repeated(preview: TablePreview, name: str, schema: Schema) -> None:
    if not preview.used:
        return
    codes = preview.valid[name].dictionary_encode().indices.to_numpy(zero_copy_only=False)
    latest = schema.policies.repeated_ids == "latest"
    kept = np.sort(np.unique(codes[::-1] if latest else codes, return_index=True)[1])
    if repeated := len(codes) - len(kept):
        preview.valid = take(preview.valid, np.sort(len(codes) - 1 - kept) if latest else kept)
        reasons = preview.rejected if schema.policies.repeated_ids == "reject" else preview.dropped
        reasons[f"another row has the same {name}"] += repeated


def _known_ids(files: list[str], schema: Schema) -> set[str]:
    known: set[str] = set()
    for file in files:
        for batch in read_file(file, "items", schema.items, only=("item_id",)):
            known.update(parse_ids(batch.columns["item_id"]).values.drop_null().to_pylist())
    return known


def _log(data: str, schema: Schema, known: set[str], spans: Spans, rows: int) -> TablePreview:
    name = schema.log
    table = schema.table(name)
    assert table is not None
    files = find_table(data, name, table, spans)
    preview = TablePreview(name, files, total=_total(files))
    batches = _limited(preview, _batches(files, name, table), rows)
    if schema.events is None:
        _add(preview, [checks.check_impressions(b, schema.impressions, schema.policies, known) for b in batches])
        if preview.used and schema.policies.repeated_rows == "drop":
            preview.valid, repeated = merge_repeated(preview.valid, schema.labels)
            preview.dropped.update({REPEATED: repeated} if repeated else {})
        return preview
    _add(preview, [check_events(b, schema.events, schema.policies, known) for b in batches])
    if preview.used:
        preview.valid, dropped = impressions_of_users(preview.valid, schema.events)
        preview.dropped.update(dropped)
    return preview


def _other(name: str, files: list[str], schema: Schema, known: set[str], rows: int) -> TablePreview:
    table = schema.table(name)
    assert table is not None
    preview = TablePreview(name, files, total=_total(files))
    batches = _limited(preview, _batches(files, name, table), rows)
    if name == "users":
        _add(preview, [checks.check_users(batch, table, schema.policies, ()) for batch in batches])
        _drop_repeated(preview, "user_id", schema)
    else:
        _add(preview, [checks.check_intents(batch, table, schema.policies, known) for batch in batches])
    return preview


def _batches(files: list[str], name: str, table: Table) -> Iterator[TableBatch]:
    for file in files:
        yield from read_file(file, name, table)


def _limited(preview: TablePreview, batches: Iterable[TableBatch], rows: int) -> Iterator[TableBatch]:
    """Batches until so many rows were read, or so long."""
    end = time.monotonic() + SECONDS
    for batch in batches:
        if preview.rows >= rows or (preview.rows and time.monotonic() > end):
            preview.whole = False
            return
        preview.rows += len(batch)
        yield batch


def _total(files: list[str]) -> int | None:
    if not all(file.endswith(".parquet") and "://" not in file for file in files):
        return None
    try:
        return sum(pq.read_metadata(file).num_rows for file in files)
    except (pa.ArrowException, OSError):
        return None


def _add(preview: TablePreview, parts: list[CheckedRows]) -> None:
    for part in parts:
        preview.dropped.update(part.dropped)
        preview.missing.update(part.missing)
        for reject in part.rejected:
            rule = rule_of(reject)
            preview.rejected[rule] += 1
            preview.examples.setdefault(rule, reject)
    if parts:
        preview.valid = concatenate([part.valid for part in parts])


def _table_lines(table: TablePreview) -> list[str]:
    """Rows, and what becomes of them."""
    how_many = f"{table.rows:,} rows" if table.whole else f"the first {table.rows:,} rows"
    if not table.whole and table.total:
        how_many += f" of {table.total:,}"
    name = table.files[0].rsplit("/", 1)[-1] + (f" and {len(table.files) - 1} more" if len(table.files) > 1 else "")
    lines = [f"{table.name:12s} {how_many} of {name}: {table.used:,} used"]
    for what, reasons in (("rejected", table.rejected), ("dropped", table.dropped), ("missing", table.missing)):
        for reason, count in reasons.most_common(8):
            example = table.examples.get(reason) if what == "rejected" else None
            where = f", e.g. row {example['row']}: {example['reason']}" if example else ""
            lines.append(f"{'':12s} {what} {count:,}: {reason}{where}")
    return lines


def _item_lines(items: TablePreview, schema: Schema) -> list[str]:
    lines = _table_lines(items)
    if not items.used:
        return lines
    shares = {
        what: float(np.mean(pc.greater(pc.binary_length(items.valid[name]), 0).to_numpy(zero_copy_only=False)))
        for what, name in (("titles", "title"), ("texts", "text"), ("categories", "category"))
    }
    lines.append(f"{'':12s} " + ", ".join(f"{what} {share:.0%}" for what, share in shares.items()))
    found = sum(1 for image in items.valid["image"].to_pylist() if image)
    broken = items.missing["image cannot be decoded"]
    lost = items.missing["image_path names no file that can be read"]
    lines.append(f"{'':12s} pictures: {found:,} of {items.images_tried:,} tried, {lost:,} not found, {broken:,} broken")
    lines += [
        f"{'':12s} {_feature_line(name, kind, items.valid[name])}"
        for name, kind in schema.items.features("items").items()
    ]
    for name in schema.items.dates():
        seconds = items.valid[name].to_numpy(zero_copy_only=False)
        known = seconds[seconds > 0]
        bounds = f"{_date(known.min())} to {_date(known.max())}, " if len(known) else ""
        lines.append(f"{'':12s} {name}: {bounds}in {len(known) / len(seconds):.0%} of the rows")
    for name, column in schema.items.embeddings().items():
        share = np.any(lists_to_matrix(items.valid[name], column.dim) != 0, axis=1).mean()
        lines.append(f"{'':12s} {name}: embeddings of {column.dim} numbers, in {share:.0%} of the rows")
    return lines


def _feature_line(name: str, kind: str, values: pa.Array) -> str:
    there = values.filter(pc.not_equal(values, ""))
    share = len(there) / max(1, len(values))
    if kind == "number" and len(there):
        numbers = there.cast(pa.float64())
        bounds = pc.min_max(numbers).as_py()
        return f"{name}: {bounds['min']:g} to {bounds['max']:g}, in {share:.0%} of the rows"
    common = [row["values"] for row in sorted(pc.value_counts(there).to_pylist(), key=lambda row: -row["counts"])[:3]]
    return f"{name}: {len(pc.unique(there)):,} values ({', '.join(map(str, common))} …), in {share:.0%} of the rows"


def _find_problems(found: Preview, table: TablePreview, max_rejected_fraction: float) -> None:
    for reason, count in table.missing.items():
        if UNREADABLE_EMBEDDING in reason and count > table.rows / 2:
            found.problems.append(
                f"table `{table.name}`: {reason} in {count:,} of {table.rows:,} rows; mend its dim in shop.yaml"
            )
    broken = sum(table.rejected.values())
    if table.rows == 0:
        found.problems.append(f"table `{table.name}` has no rows; export it again")
    elif broken > max_rejected_fraction * table.rows:
        commonest = "; ".join(f"{reason}: {n:,} rows" for reason, n in table.rejected.most_common(3))
        fixes = dict.fromkeys(str(one["fix"]) for one in table.examples.values() if one["fix"])
        found.problems.append(
            f"table `{table.name}`: {broken:,} of {table.rows:,} rows break the data contract, more than "
            f"data.max_rejected_fraction = {max_rejected_fraction:.2%}. {commonest}. "
            + (f"Fix: {'; '.join(fixes)}" if fixes else "Mend the rows, or the mapping in shop.yaml")
        )
    elif table.used == 0:
        reasons = "; ".join(f"{reason}: {n:,}" for reason, n in (table.rejected + table.dropped).most_common(3))
        found.problems.append(f"table `{table.name}`: no row is left of {table.rows:,}: {reasons}")
    for reason, count in table.dropped.items():
        if "not in the catalogue" in reason and count > 0.2 * table.rows:
            found.warnings.append(
                f"table `{table.name}`: {count:,} of {table.rows:,} rows are about items that the catalogue lacks; is "
                "it the catalogue of this log?"
            )
    tried = table.images_tried
    lost = sum(n for reason, n in table.missing.items() if reason.startswith("image"))
    if tried and lost > 0.2 * tried:
        found.warnings.append(
            f"{lost:,} of {tried:,} pictures cannot be read; shop.yaml: `images` names the folder that image_path is "
            "relative to"
        )


def _find_problems_of_log(found: Preview, log: TablePreview, split_by: str, fractions: tuple[float, ...]) -> None:
    """Times, clicks and splits of the impressions."""
    if not log.used:
        return
    moments = log.valid["timestamp"].to_numpy(zero_copy_only=False)
    clicked = log.valid["clicked"].to_numpy(zero_copy_only=False)
    users, items = (len(pc.unique(log.valid[name])) for name in ("user_id", "item_id"))
    found.lines.append(f"{'':12s} {_date(moments.min())} to {_date(moments.max())}; {users:,} users, {items:,} items")
    for label in found.schema.labels:
        share = log.valid[label].to_numpy(zero_copy_only=False).mean()
        found.lines.append(f"{'':12s} {label}: {share:.2%} of {len(clicked):,} impressions")
    table = found.schema.table(log.name)
    assert table is not None
    found.lines += [
        f"{'':12s} {_feature_line(name, kind, log.valid[name])}" for name, kind in table.features(log.name).items()
    ]
    _warn_of_rows(found, log, table.features(log.name))
    if items < 2:
        found.problems.append(f"table `{log.name}`: all impressions are of one item; a ranking needs at least two")
    if clicked.min() == clicked.max():
        found.problems.append(
            f"table `{log.name}`: every impression has the label {int(clicked[0])}; nothing can be learned from it. "
            + ("Look at events.labels and events.window_seconds" if log.name == "events" else "Export both kinds")
        )
    for label in found.schema.labels[1:]:
        own = log.valid[label].to_numpy(zero_copy_only=False)
        if own.min() == own.max():
            found.problems.append(
                f"table `{log.name}`: every impression has the label {label}: {int(own[0])}, of which nothing can be "
                "learned. Remove the label from shop.yaml, or export both kinds"
            )
    if split_by != "time":
        return
    times, rows = np.unique(moments, return_counts=True)
    split = split_by_time(moments, time_boundaries((times, rows), fractions))
    sizes = np.bincount(split, minlength=3)
    parts = [f"{name} {size:,}" for name, size in zip(SPLITS, sizes, strict=True)]
    found.lines.append(f"{'':12s} split by time: {', '.join(parts)}")
    for name, labels in ((name, clicked[split == code]) for code, name in enumerate(SPLITS)):
        if log.whole and len(labels) and labels.min() == labels.max() and clicked.min() != clicked.max():
            found.warnings.append(
                f"every impression of split {name} has the label {labels[0]}, so that its AUC is undefined; did the "
                "latest labels come in yet?"
            )
    if log.whole and (sizes == 0).any():
        empty = " and ".join(name for name, size in zip(SPLITS, sizes, strict=True) if not size)
        found.problems.append(
            f"the split by time leaves {empty} without rows: {len(times):,} distinct times. Give finer times, other "
            "data.split.fractions, or data.split.by: user"
        )
    if len(times) > 1 and (np.diff(times) % 86_400 == 0).all():
        found.warnings.append("times are whole days: within a day nothing says which impression came first")


def _warn_of_rows(found: Preview, log: TablePreview, features: dict[str, str]) -> None:
    """Outcomes among the features, a user who is many, impressions that are there twice."""
    clicked = log.valid["clicked"].to_numpy(zero_copy_only=False)
    for name, kind in features.items():
        value = always_clicked(log.valid[name], clicked) if kind == "categorical" else None
        if value is not None:
            found.warnings.append(
                f"all rows with {name} {value!r} were clicked: an outcome, known only after the click? Then remove "
                f"{name} from {log.name}.columns in shop.yaml; a ranker that reads it learns nothing else"
            )
    users = pc.value_counts(log.valid["user_id"]).to_pylist()
    largest = max(users, key=lambda row: row["counts"])
    if len(users) > 20 and largest["counts"] > 0.05 * log.used:
        found.warnings.append(
            f"user {largest['values']!r} has {largest['counts']:,} of {log.used:,} impressions; does this id stand for "
            "all who are not known?"
        )
    keys = pa.table({name: log.valid[name] for name in ("user_id", "item_id", "timestamp")})
    repeated = len(keys) - len(keys.group_by(keys.column_names).aggregate([]))
    if log.name == "impressions" and repeated > 0.005 * log.used:
        found.warnings.append(
            f"{repeated:,} of {log.used:,} impressions repeat the user, the item and the time of another; each counts. "
            "Remove them if the log has them twice"
        )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M")
