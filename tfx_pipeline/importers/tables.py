"""Writes the tables of the data contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMAS = {
    "items": pa.schema(
        [
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("text", pa.string()),
            ("category", pa.string()),
            ("image", pa.binary()),
            ("created_at", pa.int64()),
        ]
    ),
    "impressions": pa.schema(
        [
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("timestamp", pa.int64()),
            ("clicked", pa.int64()),
            ("sequence", pa.int64()),
        ]
    ),
    "intents": pa.schema(
        [
            ("query_item_id", pa.string()),
            ("query_image", pa.binary()),
            ("query_text", pa.string()),
            ("item_id", pa.string()),
            ("signal", pa.string()),
            ("timestamp", pa.int64()),
        ]
    ),
}


class ImportFolderError(ValueError):
    """The folder of an import holds what no import wrote."""


def check_folder(folder: Path, marker: str) -> None:
    """Raises `ImportFolderError` unless `folder` is empty, not there, or the outcome of an earlier import.

    Args:
        folder: That will be written.
        marker: File that an import leaves there.
    """
    if folder.is_dir() and not (folder / marker).is_file():
        found = sorted(path.name for path in folder.iterdir())
        if found:
            raise ImportFolderError(
                f"an import writes into a folder that is empty or its own; {folder} holds {', '.join(found[:5])}"
                f"{' …' if len(found) > 5 else ''}. Choose another folder"
            )


def write_table(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    """Writes `columns` as `folder/name.parquet`, in the contract's column order and types.

    Columns the contract does not name (user profile, context features) are kept after the named ones.
    """
    schema = SCHEMAS.get(name, pa.schema([]))
    arrays, fields = [], []
    for field in schema:
        if field.name in columns:
            arrays.append(pa.array(columns[field.name], type=field.type))
            fields.append(field)
    for extra in columns.keys() - set(schema.names):
        array = pa.array(columns[extra])
        arrays.append(array)
        fields.append(pa.field(extra, array.type))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), path, row_group_size=10_000)
    return path
