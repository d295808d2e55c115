"""Counts every row in and out, writes the rejected ones down, and stops a run that rejects too many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.io.filesystems import FileSystems

from components.contract.checks import CheckedRows
from components.contract.tables import ContractError
from components.metrics import counter

ROWS_IN, ROWS_OUT, REJECTED, DROPPED, MISSING = "rows in", "rows out", "rejected: ", "dropped: ", "missing: "
NOTED = "noted: "
REJECTED_FILE = "rejected.jsonl"
REJECTS, TALLY = "rejects", "tally"
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
    """(rejects, tally) → `FOLDER/TABLE.jsonl` with at most `KEPT_REJECTS` rejected rows of each reason, the same beside
    the counts as `REJECTED_FILE`, and a JSON file of the counts."""

    def __init__(self, table: str, rejected_folder: str, counts_file: str) -> None:
        super().__init__()
        self._table, self._folder, self._counts_file = table, rejected_folder, counts_file

    def expand(self, sides: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        rejects, tally = sides
        path = FileSystems.join(self._folder, f"{self._table}.jsonl")
        if FileSystems.exists(path):  # of an earlier run
            FileSystems.delete([path])
        written = (
            rejects
            | "FirstOfReason" >> beam.combiners.Top.SmallestPerKey(KEPT_REJECTS, key=_in_file_order)
            | "Rows" >> beam.FlatMap(lambda kept: kept[1])
            | "Together" >> beam.WithKeys(None)
            | "Group" >> beam.GroupByKey()
            | "WriteRejects" >> beam.Map(_write_rejects, (path, _beside(self._counts_file)))
        )
        counted = (
            tally
            | "Count" >> beam.CombinePerKey(sum)
            | "Collect" >> beam.combiners.ToDict()
            | "WriteCounts" >> beam.Map(_write_json, self._counts_file)
        )
        return (written, counted) | beam.Flatten()


def _in_file_order(reject: dict[str, Any]) -> tuple[str, int]:
    return reject["file"], reject["row"]


def _beside(counts_file: str) -> str:
    return FileSystems.join(FileSystems.split(counts_file)[0], REJECTED_FILE)


def _write_rejects(group: tuple[None, Iterable[dict[str, Any]]], paths: tuple[str, ...]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in sorted(group[1], key=_in_file_order))
    for path in paths:
        with FileSystems.create(path) as handle:
            handle.write(text.encode())


def _write_json(values: dict[str, int], path: str) -> None:
    with FileSystems.create(path) as handle:
        handle.write(json.dumps(dict(sorted(values.items())), indent=2).encode())


def read_counts(path: str) -> dict[str, int]:
    """The counts that `WriteRowCounts` wrote."""
    with FileSystems.open(path) as handle:
        counts: dict[str, int] = json.loads(handle.read())
    return counts


def check_reject_rate(table: str, counts: dict[str, int], max_rejected_fraction: float, rejected_folder: str) -> None:
    """Logs the counts of `table` and stops the run where too much was rejected.

    Raises:
        ContractError: no row was left, or more than `max_rejected_fraction` were rejected; names the three
            commonest reasons.
    """
    rows_in, rows_out = counts.get(ROWS_IN, 0), counts.get(ROWS_OUT, 0)
    rejected, dropped, missing, noted = (
        {key.removeprefix(prefix): n for key, n in counts.items() if key.startswith(prefix)}
        for prefix in (REJECTED, DROPPED, MISSING, NOTED)
    )
    broken, left_out = sum(rejected.values()), sum(dropped.values())
    if rows_in != rows_out + broken + left_out:
        raise AssertionError(f"table `{table}`: the counts do not add up: {counts}")
    logging.info("table %s: %d rows in, %d used, %d rejected, %d dropped", table, rows_in, rows_out, broken, left_out)
    for what, reasons in (("rejected", rejected), ("dropped", dropped), ("a missing value", missing), ("used", noted)):
        for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]):
            logging.info("table %s: %s: %s: %d rows", table, what, reason, count)
    if rows_in == 0:
        raise ContractError(f"table `{table}` has a header but no rows; export it again")
    fractions = f"Each reason with up to {KEPT_REJECTS:,} rows: {FileSystems.join(rejected_folder, table + '.jsonl')}"
    if broken > max_rejected_fraction * rows_in:
        raise ContractError(
            f"table `{table}`: {broken} of {rows_in} rows break the data contract, more than the allowed "
            f"{max_rejected_fraction:.2%}. Commonest: {_commonest(rejected)}. {fractions}. Mend the rows, or "
            "shop.yaml, or raise data.max_rejected_fraction"
        )
    if rows_out == 0:
        raise ContractError(f"table `{table}`: no row is left of {rows_in}: {_commonest(rejected | dropped)}")


def _commonest(reasons: dict[str, int]) -> str:
    return "; ".join(f"{reason}: {n} rows" for reason, n in sorted(reasons.items(), key=lambda pair: -pair[1])[:3])
