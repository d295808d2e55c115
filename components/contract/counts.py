"""Counts every row in and out, writes the rejected ones down, and stops a run that rejects too many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.io.filesystems import FileSystems
from upath import UPath

from components.contract.checks import CheckedRows
from components.contract.tables import ContractError
from components.metrics import counter
from serving.storage import as_path, kind, write_text

ROWS_IN, ROWS_OUT, REJECTED, DROPPED, MISSING = "rows in", "rows out", "rejected: ", "dropped: ", "missing: "
NOTED = "noted: "
REJECTS, TALLY = "rejects", "tally"
REJECTED_FOLDER, COUNTS_FILE = "rejected", "counts.json"  # in an artifact
KEPT_REJECTS = 1_000  # of each reason; the others are counted


def count_batch(rows_in: int, checked: CheckedRows) -> Iterator[tuple[str, int]]:
    """The counts of one batch: rows in, rows out, rows by the reason why they are not, values that are missing,
    and rows that are unusual."""
    yield ROWS_IN, rows_in
    yield ROWS_OUT, rows_in - len(checked.rejected) - sum(checked.dropped.values())
    for reject in checked.rejected:
        yield REJECTED + rule_of(reject), 1
    yield from ((DROPPED + reason, count) for reason, count in checked.dropped.items())
    yield from ((MISSING + reason, count) for reason, count in checked.missing.items())
    yield from ((NOTED + reason, count) for reason, count in checked.noted.items())


def rule_of(reject: dict[str, Any]) -> str:
    """The rule that a rejected row breaks, without what was received."""
    return str(reject["reason"]).split(" (received")[0].split(": ")[0]


class Checked(beam.DoFn):
    """Applies a `check_*` function, with its side inputs.

    Valid rows go to the main output; the rejected ones, and all counts, to side outputs.
    """

    def __init__(self, check: Any) -> None:
        self._check = check

    def process(self, batch: Any, *sides: Any) -> Iterator[Any]:
        checked: CheckedRows = self._check(batch, *sides)
        if len(next(iter(checked.valid.values()))):
            yield checked.valid
        for reject in checked.rejected:
            yield beam.pvalue.TaggedOutput(REJECTS, (rule_of(reject), reject))
        for entry in count_batch(len(batch), checked):
            counter(entry[0]).inc(entry[1])
            yield beam.pvalue.TaggedOutput(TALLY, entry)


class WriteRowCounts(beam.PTransform):
    """(rejects, tally) → `rejected/TABLE.jsonl` with at most `KEPT_REJECTS` rejected rows of each reason, and
    `counts.json`, in the folder of the artifact that is made of the table."""

    def __init__(self, table: str, folder: str) -> None:
        super().__init__()
        self._table, self._folder = table, folder

    def expand(self, sides: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        rejects, tally = sides
        path = f"{self._folder}/{REJECTED_FOLDER}/{self._table}.jsonl"
        written = (
            rejects
            | "FirstOfReason" >> beam.combiners.Top.SmallestPerKey(KEPT_REJECTS, key=_in_file_order)
            | "Rows" >> beam.FlatMap(lambda kept: kept[1])
            | "Together" >> beam.WithKeys(None)
            | "Group" >> beam.GroupByKey()
            | "WriteRejects" >> beam.Map(_write_rejects, path)
        )
        counted = (
            tally
            | "Count" >> beam.CombinePerKey(sum)
            | "Collect" >> beam.combiners.ToDict()
            | "WriteCounts" >> beam.Map(_write_json, f"{self._folder}/{COUNTS_FILE}")
        )
        return (written, counted) | beam.Flatten()


def _in_file_order(reject: dict[str, Any]) -> tuple[str, int]:
    return reject["file"], reject["row"]


def _write_rejects(group: tuple[None, Iterable[dict[str, Any]]], path: str) -> None:
    lines = sorted(group[1], key=_in_file_order)
    with FileSystems.create(path) as handle:
        handle.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def _write_json(values: dict[str, int], path: str) -> None:
    with FileSystems.create(path) as handle:
        handle.write(json.dumps(dict(sorted(values.items())), indent=2).encode())


def check_counts(table: str, folder: str, exec_properties: dict[str, Any]) -> dict[str, int]:
    """Reads and logs the counts of `table`, and stops the run where too much was rejected.

    Args:
        table: Its name.
        folder: Of the artifact, as `WriteRowCounts` takes it.
        exec_properties: `max_rejected_fraction`; and `rejected_folder`, which gets the rejected rows where the run is
            stopped, for TFX deletes the artifact then.

    Raises:
        ContractError: no row was left, or more than `max_rejected_fraction` were rejected; names the three
            commonest reasons.
    """
    with FileSystems.open(f"{folder}/{COUNTS_FILE}") as handle:
        counts: dict[str, int] = json.loads(handle.read())
    rows_in, rows_out = counts.get(ROWS_IN, 0), counts.get(ROWS_OUT, 0)
    rejected, dropped, missing, noted = (
        {key.removeprefix(prefix): n for key, n in counts.items() if key.startswith(prefix)}
        for prefix in (REJECTED, DROPPED, MISSING, NOTED)
    )
    broken, left_out = sum(rejected.values()), sum(dropped.values())
    if rows_in != rows_out + broken + left_out:
        raise AssertionError(f"table `{table}`: the counts do not add up: {counts}")
    logging.info("table %s: %d rows in, %d used, %d rejected, %d dropped", table, rows_in, rows_out, broken, left_out)
    for what, found in (("rejected", rejected), ("dropped", dropped), ("a missing value", missing), ("used", noted)):
        for reason, count in sorted(found.items(), key=lambda pair: -pair[1]):
            logging.info("table %s: %s: %s: %d rows", table, what, reason, count)
    if rows_in == 0:
        raise ContractError(f"table `{table}` has a header but no rows; export it again")
    allowed = exec_properties["max_rejected_fraction"]
    if broken > allowed * rows_in or rows_out == 0:
        kept = _keep_rejected(table, folder, exec_properties["rejected_folder"])
        examples = f" Each reason with up to {KEPT_REJECTS:,} rows: {kept}." if kept else ""
        if broken > allowed * rows_in:
            raise ContractError(
                f"table `{table}`: {broken} of {rows_in} rows break the data contract, more than the allowed "
                f"{allowed:.2%}. Commonest: {_commonest(rejected)}.{examples} Mend the rows, or shop.yaml, or raise "
                "data.max_rejected_fraction"
            )
        reasons = _commonest(rejected | dropped)
        raise ContractError(f"table `{table}`: no row is left of {rows_in}: {reasons}.{examples}")
    return counts


def _keep_rejected(table: str, folder: str, rejected_folder: str) -> UPath | None:
    source = as_path(folder) / REJECTED_FOLDER / f"{table}.jsonl"
    if kind(source) is None:
        return None
    target = as_path(rejected_folder) / f"{table}.jsonl"
    write_text(target, source.read_text())
    return target


def _commonest(reasons: dict[str, int]) -> str:
    return "; ".join(f"{reason}: {n} rows" for reason, n in sorted(reasons.items(), key=lambda pair: -pair[1])[:3])
