"""Counts every row in and out, writes the rejected ones down, and stops a run that rejects too many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.io.filesystems import FileSystems

from components.contract.checks import Rejects
from components.contract.tables import ContractError
from components.metrics import counter

ROWS_IN, ROWS_OUT, REJECTED = "rows in", "rows out", "rejected: "
REJECTS, TALLY = "rejects", "tally"


def tally_batch(rows_in: int, rejects: Rejects) -> Iterator[tuple[str, int]]:
    """The counts of one batch: rows in, rows out, and one entry for each rejected row's reason."""
    yield ROWS_IN, rows_in
    yield ROWS_OUT, rows_in - len(rejects)
    for reject in rejects:
        yield REJECTED + str(reject["reason"]).split(" (received")[0].split(": ")[0], 1


class Checked(beam.DoFn):
    """Applies a `check_*` function, with at most one side input.

    Good rows go to the main output; the rejected ones, and all counts, to side outputs.
    """

    def __init__(self, check: Any) -> None:
        self._check = check

    def process(self, batch: Any, side: Any = None) -> Iterator[Any]:
        good, rejects = self._check(batch) if side is None else self._check(batch, side)
        if len(next(iter(good.values()))):
            yield good
        for reject in rejects:
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
        for entry in tally_batch(len(batch), rejects):
            counter(entry[0]).inc(entry[1])
            yield beam.pvalue.TaggedOutput(TALLY, entry)


class WriteAccount(beam.PTransform):
    """(rejects, tally) → `FOLDER/TABLE.jsonl` with each rejected row, and a JSON file of the counts."""

    def __init__(self, table: str, rejected_folder: str, counts_file: str) -> None:
        super().__init__()
        self._table, self._folder, self._counts_file = table, rejected_folder, counts_file

    def expand(self, sides: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        rejects, tally = sides
        # One file, sorted, because a person reads it; the run stops long before it could grow large.
        written = (
            rejects
            | "Together" >> beam.WithKeys(None)
            | "Group" >> beam.GroupByKey()
            | "WriteRejects" >> beam.Map(_write_rejects, FileSystems.join(self._folder, f"{self._table}.jsonl"))
        )
        counted = (
            tally
            | "Count" >> beam.CombinePerKey(sum)
            | "Collect" >> beam.combiners.ToDict()
            | "WriteCounts" >> beam.Map(_write_json, self._counts_file)
        )
        return (written, counted) | beam.Flatten()


def _write_rejects(group: tuple[None, Iterable[dict[str, Any]]], path: str) -> None:
    lines = sorted(group[1], key=lambda r: (r["file"], r["row"]))
    with FileSystems.create(path) as handle:
        handle.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def _write_json(values: dict[str, int], path: str) -> None:
    with FileSystems.create(path) as handle:
        handle.write(json.dumps(dict(sorted(values.items())), indent=2).encode())


def read_counts(path: str) -> dict[str, int]:
    """The counts that `WriteAccount` wrote."""
    with FileSystems.open(path) as handle:
        counts: dict[str, int] = json.loads(handle.read())
    return counts


def settle(table: str, counts: dict[str, int], max_rejected_fraction: float, rejected_folder: str) -> None:
    """Logs the account of `table` and stops the run where too much was rejected.

    Raises:
        ContractError: no row was left, or more than `max_rejected_fraction` were rejected; names the three
            commonest reasons.
    """
    rows_in, rows_out = counts.get(ROWS_IN, 0), counts.get(ROWS_OUT, 0)
    reasons = {key.removeprefix(REJECTED): n for key, n in counts.items() if key.startswith(REJECTED)}
    if rows_in != rows_out + sum(reasons.values()):
        raise AssertionError(f"table `{table}`: the counts do not add up: {counts}")
    logging.info("table %s: %d rows in, %d used, %d rejected", table, rows_in, rows_out, rows_in - rows_out)
    if rows_in == 0:
        raise ContractError(f"table `{table}` has a header but no rows; export it again")
    if rows_in - rows_out > max_rejected_fraction * rows_in:
        commonest = sorted(reasons.items(), key=lambda pair: -pair[1])[:3]
        listed = "; ".join(f"{reason}: {n} rows" for reason, n in commonest)
        raise ContractError(
            f"table `{table}`: {rows_in - rows_out} of {rows_in} rows break the data contract, more than the allowed "
            f"{max_rejected_fraction:.2%}. Commonest: {listed}. Each row with its reason: "
            f"{FileSystems.join(rejected_folder, table + '.jsonl')}. Mend the rows or raise data.max_rejected_fraction"
        )
