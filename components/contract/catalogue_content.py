"""Content of single items, read from the catalogue as the pipeline reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.contract.checks import check_items
from components.contract.files import find_table, load_schema
from components.contract.image_files import ImageFiles
from components.contract.tables import ContractError, TableBatch, read_file
from components.contract.values import parse_ids
from serving.representation_center.events import Content

log = logging.getLogger("mim")


class CatalogueContent:
    """Content of items that were asked for and have no vector, from table `items` of a folder of the data contract.

    Text and pictures are those of the pipeline, with the folder's `shop.yaml` where there is one.  The table is read
    again only when a file of it changed or another item is asked for.

    Args:
        folder: A local folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        self._schema = load_schema(self._folder)
        self._images = ImageFiles(self._folder, self._schema.images)
        self._unknown: set[str] = set()
        self._stamp: dict[str, float] = {}

    def find(self, item_ids: Iterable[str]) -> dict[str, Content]:
        """Content of those of the items that the catalogue has; of none while the table cannot be read."""
        try:
            return self._find(item_ids)
        except (ContractError, OSError) as error:  # it may be written just now
            log.warning("the catalogue is read again later: %s", error)
            return {}

    def _find(self, item_ids: Iterable[str]) -> dict[str, Content]:
        files = find_table(self._folder, "items", self._schema.items)
        stamp = {path: Path(path).stat().st_mtime for path in files}
        if stamp != self._stamp:
            self._stamp = stamp
            self._unknown.clear()
        wanted = [item_id for item_id in item_ids if item_id not in self._unknown]
        ids, found = pa.array(wanted, pa.string()), {}  # type: pa.Array, dict[str, Content]
        for path in files if wanted else ():
            for batch in read_file(path, "items", self._schema.items):
                for item_id, content in self._contents(batch, ids):
                    if item_id not in found or self._schema.policies.repeated_ids == "latest":
                        found[item_id] = content
        self._unknown |= set(wanted) - set(found)
        return found

    def _contents(self, batch: TableBatch, wanted: pa.Array) -> Iterable[tuple[str, Content]]:
        ids = parse_ids(batch.columns["item_id"]).values
        rows = np.flatnonzero(pc.is_in(ids, value_set=wanted).to_numpy(zero_copy_only=False))
        if not len(rows):
            return ()
        columns = {name: values.take(pa.array(rows)) for name, values in batch.columns.items()}
        part = TableBatch(batch.file, batch.rows[rows], columns)
        valid = check_items(part, self._schema.items, self._schema.policies, (), self._images.read).valid
        texts = zip(*(valid[name].to_pylist() for name in ("item_id", "image", "title", "text")), strict=True)
        return [(item_id, Content(image, title, text)) for item_id, image, title, text in texts]
