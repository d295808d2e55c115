"""The sample shop with its log and catalogue delivered day by day, for `mim bench incremental` and tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfx_pipeline.importers.sample import START, SampleSize, generate_sample

DAY = 86_400
SPANS = "data: {spans: {pattern: '{SPAN}', catalogue: latest}}\n"  # settings for such a shop


def write_daily_shop(folder: Path, size: SampleSize, seed: int = 3) -> list[str]:
    """Writes `impressions/DATE/`, `intents/DATE/` and `items/DATE/`, which is the whole catalogue as of that day's end.

    Args:
        folder: Is made; a folder beside it has the shop in one piece.
        size: Of the shop, all days together.
        seed: Of the shop.

    Returns:
        The dates, in order; the first and the last are parts of a day.
    """
    whole = folder.with_name(f"{folder.name}-whole")
    generate_sample(whole, size, seed)
    log, intents, items = (pq.read_table(whole / f"{name}.parquet") for name in ("impressions", "intents", "items"))
    dates = []
    for begin in range(START - START % DAY, START + size.days * DAY, DAY):
        date = datetime.fromtimestamp(begin, UTC).date().isoformat()
        dates.append(date)
        for name, table in (("impressions", log), ("intents", intents)):
            moment = table["timestamp"]
            _write(
                folder / name / date, table.filter(pc.and_(pc.less_equal(begin, moment), pc.less(moment, begin + DAY)))
            )
        _write(folder / "items" / date, items.filter(pc.less(items["created_at"], begin + DAY)))
    return dates


def _write(folder: Path, table: pa.Table) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")
