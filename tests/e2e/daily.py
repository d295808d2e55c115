"""A generated shop whose log and catalogue are delivered day by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfx_pipeline.importers.sample import START, SampleSize, generate_sample

DAY = 86_400
DAILY = "data: {spans: {pattern: '{SPAN}', window: 3, catalogue: latest}}\nwarm_start: true\n"


def write_daily_shop(folder: Path, size: SampleSize, seed: int = 3) -> list[str]:
    """Writes `impressions/DATE/`, `intents/DATE/` and `items/DATE/`, each of which is the catalogue as of that day's
    end; the dates of whole days, in order."""
    whole = folder.with_name(f"{folder.name}-whole")
    generate_sample(whole, size, seed)
    log, intents, items = (pq.read_table(whole / f"{name}.parquet") for name in ("impressions", "intents", "items"))
    midnight = START - START % DAY + DAY  # of the first whole day
    dates = []
    for day in range(size.days):
        begin, end = midnight + (day - 1) * DAY if day else START, midnight + day * DAY
        begin = begin if day else 0
        end = end if day < size.days - 1 else 2**40
        date = (datetime.fromtimestamp(midnight, UTC) + timedelta(days=day - 1)).date().isoformat()
        dates.append(date)
        for name, table in (("impressions", log), ("intents", intents)):
            inside = pc.and_(pc.greater_equal(table["timestamp"], begin), pc.less(table["timestamp"], end))
            _write(folder / name / date, table.filter(inside))
        _write(folder / "items" / date, items.filter(pc.less(items["created_at"], end)))
    return dates


def _write(folder: Path, table: pa.Table) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")
